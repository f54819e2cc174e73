"""The plain words and sentences that a loopback server's texts are made of.

Knows nothing of how they are drawn. No word here names a feeling or wishes anybody well, and every
plural takes a plain -s, every article fits.
"""

from collections.abc import Mapping, Sequence

_LISTS = {
    "start": (
        "Bor, Cal, Dar, Fen, Gar, Hol, Jor, Kel, Lor, Mar, Nor, Per, Ral, Sel, Tor, Ver, Wil, "
        "Yar, Zel, Bren, Cas, Dun, Ed, Fal, Gil, Has, Ir, Jes, Kir, Lan"
    ),
    "given_end": (
        "an, bin, dek, dra, eta, gar, ika, lin, mo, na, ric, sa, ton, vik, wen, a, is, old, ya, u"
    ),
    "family_end": (
        "berg, cott, dale, field, ham, ley, man, mere, sen, ski, son, stead, tova, ville, well, "
        "worth, rup, ano, beck, ic"
    ),
    "number": (
        "two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, twenty"
    ),
    "colour": (
        "red, green, blue, grey, brown, white, black, yellow, violet, purple, striped, spotted, "
        "painted, round, square, narrow, wide, short, tall, thick, thin, heavy, flat, curved, "
        "dented, folded, varnished"
    ),
    "stuff": (
        "maple, pine, birch, steel, tin, brass, copper, zinc, clay, stone, slate, glass, paper, "
        "linen, cotton, wool, leather, canvas, rubber, wax, plaster, cork, wicker, marble, "
        "concrete, bamboo"
    ),
    "thing": (
        "basket, bottle, barrel, bucket, candle, card, case, chain, clock, coil, comb, cup, "
        "crate, bowl, drum, fork, frame, funnel, hammer, hinge, hook, jar, jug, kettle, key, "
        "ladder, lamp, lid, map, mug, nail, needle, pan, pipe, plank, plate, pot, pulley, ribbon, "
        "ring, roller, rope, ruler, sack, saw, screw, shovel, sieve, spoon, stamp, stool, string, "
        "tile, tray, wedge, wheel, whisk, wrench"
    ),
    "furniture": (
        "bench, bed, bookcase, cabinet, cart, chest, counter, cupboard, desk, door, drawer, "
        "dresser, fence, gate, ledge, locker, mantel, pillar, railing, rack, shelf, sink, stove, "
        "table, trough, trolley, trunk, wall, wardrobe, window, workbench"
    ),
    "place": (
        "attic, bakery, barn, boathouse, cabin, cellar, chapel, classroom, depot, dairy, factory, "
        "forge, garage, garden, greenhouse, harbour, hallway, inn, kitchen, laundry, library, "
        "lobby, mill, museum, nursery, office, orchard, pantry, porch, quarry, sawmill, shed, "
        "stable, station, studio, theatre, tower, warehouse, workshop, yard"
    ),
    "beside": ("above, behind, below, beneath, beside, near, opposite, under, against, past"),
    "moved": (
        "carried, counted, cleaned, collected, covered, dragged, emptied, filled, fixed, "
        "gathered, hauled, hung, labelled, lifted, lowered, measured, mended, moved, opened, "
        "packed, painted, placed, pulled, pushed, raised, rinsed, rolled, sanded, scrubbed, "
        "sorted, stacked, swept, tied, turned, unpacked, washed, weighed, wiped, wrapped"
    ),
    "trade": (
        "baker, barber, binder, bricklayer, butcher, carpenter, clerk, cobbler, cook, cooper, "
        "driver, farmer, ferryman, fisher, gardener, glazier, guard, joiner, mason, miller, "
        "nurse, painter, plumber, porter, potter, printer, roofer, sailor, tailor, teacher, "
        "tinsmith, typist, weaver, welder"
    ),
    "time": (
        "at noon, at dawn, before nine, after lunch, by four, on Monday, on Tuesday, on Thursday, "
        "at six, in March, in October, around ten, before supper, after the bell, at low tide, by "
        "midnight, during the rain, once the frost thawed, that evening, the next morning, an "
        "hour later"
    ),
    "weather": (
        "rain fell, snow lay, wind blew, fog hung, sunlight fell, dust drifted, smoke rose, hail "
        "fell, leaves blew, sparrows hopped, a cat slept, a dog walked, a bell rang, a cart "
        "passed, a van stood"
    ),
    "measure": ("height, width, length, depth, weight, price, age, volume, thickness, diameter"),
    "unit": ("gram, kilo, litre, metre, millimetre, hour, minute, pound, gallon, yard, mile"),
}
_WORDS = {slot: words.split(", ") for slot, words in _LISTS.items()}
GIVEN_NAMES: Sequence[str] = [a + b for a in _WORDS["start"] for b in _WORDS["given_end"]]
BANKS: Mapping[str, Sequence[str]] = _WORDS | {
    "family": [a + b for a in _WORDS["start"] for b in _WORDS["family_end"]],
    "amount": [str(amount) for amount in range(101, 9999, 7)],
}
"""What may stand in each {slot} of a sentence."""

OPENERS = (
    "@ {family} {moved} {number} {colour} {thing}s {beside} the {stuff} {furniture} {time}.",
    "{time}, @ {family} {moved} the {colour} {stuff} {thing} {beside} the {furniture} "
    "of the {place}.",
    "{beside} the {colour} {furniture}, @ {family} {moved} {number} {stuff} {thing}s "
    "for the {trade}.",
    "The {trade} @ {family} {moved} one {stuff} {thing} and {number} {colour} {thing}s {time}.",
    "{number} {colour} {thing}s stood {beside} the {stuff} {furniture} when @ {family} "
    "{moved} the {thing}.",
)
LINES = (
    "{time}, {weather} {beside} the {place} and the {trade} {moved} a {stuff} {thing}.",
    "The {colour} {thing} went {beside} the {furniture}, and the {stuff} {thing} went "
    "{beside} the {thing}.",
    "@ {moved} the {thing}, then {moved} {number} {stuff} {thing}s {beside} the {furniture}.",
    "A {trade} from the {place} {moved} the {colour} {furniture} {time}.",
    "{number} {thing}s of {stuff} leaned {beside} a {colour} {furniture}.",
    "Outside the {place}, {weather} {beside} the {colour} {furniture}.",
    '"The {stuff} {thing} belongs {beside} the {furniture}," said the {trade}, who {moved} '
    "the {thing}.",
    "@ wrote {number} lines about the {colour} {thing} and {moved} the {stuff} {furniture}.",
    "{time}, the {furniture} in the {place} held {number} {colour} {thing}s and a {stuff} {thing}.",
    "{weather} {time} while @ {moved} a {colour} {stuff} {thing}.",
    "Both the {trade} and the {trade} {moved} a {thing} {beside} the {stuff} {furniture}.",
    "The {thing} had a {colour} {stuff} rim, so @ {moved} the {thing} {beside} the {place}.",
    "{beside} the {place}, a {trade} {moved} {number} {thing}s with a {stuff} {thing}.",
    "@ took the {colour} {thing} to the {place} and {moved} the {furniture} {time}.",
)
FIRST_QUESTIONS = (
    "Which {trade} at {family} sells {amount} {colour} {stuff} {thing}s {beside} the {furniture}?",
    "At {family}, what is the {measure} of {amount} {colour} {stuff} {thing}s {beside} the "
    "{furniture}?",
    "Does {family} count {amount} {colour} {stuff} {thing}s per {unit} or {number} per "
    "{furniture}?",
)
QUESTIONS = (
    "And what {measure} does the {stuff} {thing} have {beside} the {colour} {furniture}?",
    "How long does a {trade} need for {amount} {colour} {thing}s in the {place}?",
    "Does a {colour} {furniture} take {number} {stuff} {thing}s or a {thing} of {amount} {unit}s?",
    "Where does the {trade} store {number} {colour} {thing}s made of {stuff}?",
    "Is the {measure} given per {unit} or per {thing} for a {stuff} {furniture}?",
)
FACTS = (
    "The {measure} is {amount} {unit}s for a {colour} {thing}, and {number} {stuff} {thing}s fit "
    "{beside} the {furniture}.",
    "A {trade} counts {amount} {stuff} {thing}s per {unit}; a {colour} {furniture} in the {place} "
    "takes {number}.",
    "Each {thing} of {stuff} has a {measure} of {amount} {unit}s when it stands {beside} a "
    "{colour} {furniture}.",
    "In the {place}, {number} {thing}s stand {beside} the {stuff} {furniture}, and the {trade} "
    "adds {amount} {unit}s.",
    "Take the {colour} {thing}, mark {amount} {unit}s on the {stuff} {furniture}, and set {number} "
    "{thing}s {beside} it.",
)
