"""The words of the bundled sample: pairs of concepts that exclude each other, each with two synonyms."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")

Pair = tuple[tuple[str, str], tuple[str, str]]
"""Two concepts, two synonyms each."""


def pick(rng: Random, options: tuple[T, ...]) -> T:
    """Returns one of `options`; `random()` alone gives the same numbers in every version of Python."""
    return options[int(rng.random() * len(options))]


@dataclass(frozen=True)
class Word:
    """One of the four words of a pair of concepts."""

    pair: Pair
    concept: int
    form: int

    @property
    def text(self) -> str:
        return self.pair[self.concept][self.form]

    def synonym(self) -> Word:
        """Returns the other word of the same concept."""
        return Word(self.pair, self.concept, 1 - self.form)

    def contrast(self, rng: Random) -> Word:
        """Returns a word of the other concept."""
        return Word(self.pair, 1 - self.concept, pick(rng, (0, 1)))


def draw(rng: Random, pairs: tuple[Pair, ...], *, besides: tuple[Word, ...] = ()) -> Word:
    """Returns a word of a pair that none of `besides` comes from; all words of a pair are equally likely."""
    taken = {word.pair for word in besides}
    free = tuple(pair for pair in pairs if pair not in taken)
    return Word(pick(rng, free), pick(rng, (0, 1)), pick(rng, (0, 1)))


def _parse(table: str) -> tuple[Pair, ...]:
    pairs = []
    for line in table.strip().splitlines():
        left, right = (tuple(name.strip() for name in side.split(",")) for side in line.split("|"))
        pairs.append(((left[0], left[1]), (right[0], right[1])))
    return tuple(pairs)


PEOPLE = _parse("""
    doctor, physician | lawyer, attorney
    teacher, instructor | student, pupil
    reporter, journalist | singer, vocalist
    pilot, aviator | farmer, grower
    painter, artist | guard, watchman
    author, writer | builder, constructor
    cook, chef | soldier, trooper
    robber, burglar | officer, policeman
    scientist, researcher | captain, skipper
    manager, supervisor | customer, shopper
""")

THINGS = _parse("""
    car, automobile | house, home
    picture, photo | bicycle, bike
    boat, ship | coat, jacket
    gift, present | sofa, couch
    rug, carpet | phone, telephone
    plane, aircraft | shop, store
    bag, sack | film, movie
    cup, mug | stone, rock
    hat, cap | flower, blossom
    road, street | garden, yard
""")

QUALITIES = _parse("""
    big, large | small, little
    old, ancient | new, modern
    cheap, inexpensive | expensive, costly
    dirty, filthy | clean, spotless
    beautiful, lovely | ugly, hideous
    broken, damaged | intact, undamaged
    famous, celebrated | unknown, obscure
    heavy, weighty | light, lightweight
""")

# base form / past form, which is also the participle
ACTS_ON_THINGS = _parse("""
    buy/bought, purchase/purchased | sell/sold, auction/auctioned
    destroy/destroyed, wreck/wrecked | repair/repaired, fix/fixed
    find/found, discover/discovered | lose/lost, misplace/misplaced
    cover/covered, conceal/concealed | display/displayed, exhibit/exhibited
    love/loved, adore/adored | hate/hated, despise/despised
    keep/kept, retain/retained | abandon/abandoned, discard/discarded
    paint/painted, color/colored | wash/washed, rinse/rinsed
    build/built, construct/constructed | demolish/demolished, dismantle/dismantled
""")

ACTS_ON_PEOPLE = _parse("""
    praise/praised, commend/commended | criticize/criticized, condemn/condemned
    help/helped, assist/assisted | hinder/hindered, obstruct/obstructed
    hire/hired, employ/employed | fire/fired, dismiss/dismissed
    trust/trusted, believe/believed | doubt/doubted, distrust/distrusted
    rescue/rescued, save/saved | attack/attacked, assault/assaulted
    obey/obeyed, follow/followed | defy/defied, resist/resisted
    invite/invited, welcome/welcomed | expel/expelled, banish/banished
    admire/admired, respect/respected | ridicule/ridiculed, mock/mocked
""")

PLACES = ("in Paris", "in London", "in Boston", "near the river", "at the station", "in the mountains", "downtown")
TIMES = ("on Monday", "on Friday", "last week", "last year", "in the spring", "in 1998", "yesterday", "after lunch")
