"""The one door to sae-lens: imported when it is first needed, quietly."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


def sae_lens() -> ModuleType:
    """The package. It takes seconds to import and warns of its own dependencies' names."""
    with quiet():
        import sae_lens as package
    return package  # type: ignore[no-any-return]


def loaders() -> ModuleType:
    """Its readers of the formats of releases."""
    sae_lens()
    from sae_lens.loading import pretrained_sae_loaders

    return pretrained_sae_loaders  # type: ignore[no-any-return]


def directory() -> ModuleType:
    """Its catalogue of releases."""
    sae_lens()
    from sae_lens.loading import pretrained_saes_directory

    return pretrained_saes_directory  # type: ignore[no-any-return]


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and nothing logged below an error."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
