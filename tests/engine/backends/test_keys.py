"""Laws of API keys: where they are found, and that no message carries one."""

import base64
import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.backends.keys import read_key, scrub
from stores.errors import BackendError

KEY = "AIzaSy-Wq7+0/ZkX=9pQv_eR2tUu"
NAMES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".env"


def test_the_environment_comes_before_the_file_and_names_keep_their_order(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("GEMINI_API_KEY=of-the-file\nGOOGLE_API_KEY=of-the-file-too\n")
    assert read_key(*NAMES, env_file=env_file) == "of-the-file"
    monkeypatch.setenv("GOOGLE_API_KEY", "of-the-environment")
    assert read_key(*NAMES, env_file=env_file) == "of-the-environment"
    monkeypatch.setenv("GEMINI_API_KEY", "first")
    assert read_key(*NAMES, env_file=env_file) == "first"


def test_reading_the_file_does_not_change_the_environment(env_file: Path) -> None:
    env_file.write_text("GEMINI_API_KEY=secret\n")
    read_key(*NAMES, env_file=env_file)
    assert "GEMINI_API_KEY" not in os.environ


def test_a_blank_variable_is_not_a_key(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "  ")
    env_file.write_text("GEMINI_API_KEY=\nGOOGLE_API_KEY\n")
    with pytest.raises(BackendError, match="set GEMINI_API_KEY or GOOGLE_API_KEY"):
        read_key(*NAMES, env_file=env_file)
    assert read_key(*NAMES, env_file=env_file, default="none") == "none"


def test_a_file_may_have_quotes_comments_exports_and_a_byte_order_mark(env_file: Path) -> None:
    env_file.write_bytes(b"\xef\xbb\xbfexport GEMINI_API_KEY='a#b${HOME}' # mine\r\n")
    assert read_key(*NAMES, env_file=env_file) == "a#b${HOME}"


def test_a_folder_of_that_name_is_no_file(env_file: Path) -> None:
    env_file.mkdir()
    assert read_key(*NAMES, env_file=env_file, default="none") == "none"


def test_a_file_that_cannot_be_read_is_named_without_its_content(env_file: Path) -> None:
    env_file.write_bytes(b"GEMINI_API_KEY=secret\xff\n")
    with pytest.raises(BackendError) as caught:
        read_key(*NAMES, env_file=env_file)
    assert str(caught.value) == f"{env_file}: is not UTF-8; save the file as UTF-8"
    assert caught.value.__cause__ is None


def test_a_file_that_the_system_refuses_to_read_is_named(env_file: Path) -> None:
    env_file.symlink_to("/proc/self/mem")
    with pytest.raises(BackendError, match=r"\.env: cannot be read \("):
        read_key(*NAMES, env_file=env_file)


def basic(user: str) -> str:
    return base64.b64encode(f"{user}:{KEY}".encode()).decode()


@pytest.mark.parametrize(
    "leak",
    [
        KEY,
        KEY.upper(),
        quote(KEY, safe=""),
        quote(KEY, safe="").lower(),
        quote(KEY),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(KEY.encode()).decode(),
        KEY[:8],
        KEY[:20],
        base64.b64encode(KEY.encode()).decode()[:12],
    ],
)
def test_a_key_is_removed_in_every_form(leak: str) -> None:
    assert scrub(f"https://host/v1?key={leak}&n=1 failed", [KEY]) == (
        "https://host/v1?key=[key]&n=1 failed"
    )


@pytest.mark.parametrize("user", ["", "u", "me", "you"])
def test_a_key_is_removed_from_a_basic_authorization(user: str) -> None:
    left = scrub(f"Basic {basic(user)} refused", [KEY])
    assert "[key]" in left and left.endswith(" refused")
    assert len(left) < len("Basic [key] refused") + 12


def test_a_key_with_quotes_is_removed_from_json() -> None:
    odd = 'pass"word\\with\u00e9'
    assert scrub(json.dumps({"key": odd}), [odd]) == '{"key": "[key]"}'


def test_several_keys_are_removed_wherever_they_stand() -> None:
    assert scrub("a short-1 b short-1 other-22", ["short-1", "other-22", ""]) == (
        "a [key] b [key] [key]"
    )


def test_a_message_is_one_line_of_at_most_300_characters() -> None:
    assert scrub("one\r\n\n two\tthree\x0b\u2028four", []) == "one two three four"
    assert scrub("x" * 300, []) == "x" * 300
    assert scrub("x" * 301, []) == "x" * 297 + "..."


@given(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60),
    st.text(max_size=200),
    st.text(max_size=200),
    st.integers(min_value=0, max_value=59),
)
@example("AAAAAAAAAAAA", "A", "A", 11)
@example("abababababab", "ab", "", 9)
def test_no_secret_survives(secret: str, before: str, after: str, cut: int) -> None:
    partial = secret[: max(8, len(secret) - cut)]
    left = scrub(f"{before}{partial}{after}{secret}", [secret])
    assert secret[:8].lower() not in left.replace("[key]", " ").lower()
    assert len(left) <= 300 and left.splitlines() in ([], [left])
