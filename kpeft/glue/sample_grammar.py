"""Who did what to whom: the events that the bundled sample speaks of, and the sentences that tell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from kpeft.glue.sample_words import (
    ACTS_ON_PEOPLE,
    ACTS_ON_THINGS,
    PEOPLE,
    PLACES,
    QUALITIES,
    THINGS,
    TIMES,
    Word,
    draw,
    pick,
)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event; `quality` describes the patient, `adjuncts` say where and when, `never` denies it."""

    agent: Word
    act: Word
    patient: Word
    quality: Word | None = None
    adjuncts: tuple[str, ...] = ()
    never: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the fields that hold a word."""
        return ("agent", "act", "patient") if self.quality is None else ("agent", "act", "patient", "quality")

    def word(self, slot: str) -> Word:
        value = getattr(self, slot)
        assert isinstance(value, Word)
        return value

    def with_synonyms(self, slots: Sequence[str]) -> Event:
        """Says the same in other words."""
        return self.with_words({slot: self.word(slot).synonym() for slot in slots})

    def with_contrast(self, slot: str, rng: Random) -> Event:
        """Says something that differs in one slot."""
        return self.with_words({slot: self.word(slot).contrast(rng)})

    def with_words(self, words: Mapping[str, Word]) -> Event:
        """Puts words into slots."""
        changes: dict[str, Any] = dict(words)
        return replace(self, **changes)

    def swapped(self) -> Event:
        """Swaps who did it and to whom it was done."""
        return replace(self, agent=self.patient, patient=self.agent)


def draw_event(rng: Random, *, people: bool | None = None, besides: tuple[Event, ...] = ()) -> Event:
    """Draws an event that shares no pair of words with the others.

    Args:
        rng: Where chance comes from.
        people: Whether it is done to a person; `None` leaves it to chance.
        besides: Events told in the same sentence.
    """
    if people is None:
        people = rng.random() < 0.4
    taken = tuple(event.word(slot) for event in besides for slot in event.slots)
    agent = draw(rng, PEOPLE, besides=taken)
    if people:
        act = draw(rng, ACTS_ON_PEOPLE, besides=taken)
        return Event(agent=agent, act=act, patient=draw(rng, PEOPLE, besides=(*taken, agent)))
    act = draw(rng, ACTS_ON_THINGS, besides=taken)
    patient, quality = draw(rng, THINGS, besides=taken), draw(rng, QUALITIES, besides=taken)
    return Event(agent=agent, act=act, patient=patient, quality=quality)


def draw_adjuncts(rng: Random) -> tuple[str, ...]:
    """Draws a place, a time, or both."""
    return pick(rng, ((pick(rng, PLACES),), (pick(rng, TIMES),), (pick(rng, PLACES), pick(rng, TIMES))))


def base(act: Word) -> str:
    """Returns the base form of a verb."""
    return act.text.split("/")[0]


def past(act: Word) -> str:
    """Returns the past form of a verb, which is also its participle."""
    return act.text.split("/")[1]


def noun_phrase(noun: Word, quality: Word | None = None, article: str = "the") -> str:
    """Puts an article, and a quality if there is one, before a noun."""
    words = [noun.text] if quality is None else [quality.text, noun.text]
    if article == "a":
        article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words])


def clause(event: Event, *, passive: bool = False) -> str:
    """Tells an event without where and when: "the cook never sold the old car"."""
    agent, patient = noun_phrase(event.agent), noun_phrase(event.patient, event.quality)
    never = ["never"] if event.never else []
    if passive:
        return " ".join([patient, "was", *never, past(event.act), "by", agent])
    return " ".join([agent, *never, past(event.act), patient])


def sentence(event: Event, *, passive: bool = False, front: bool = False) -> str:
    """Tells an event in a sentence, with where and when at its start or at its end."""
    where = " ".join(event.adjuncts)
    told = clause(event, passive=passive)
    if not where:
        return finish(told)
    return finish(f"{where}, {told}" if front else f"{told} {where}")


def finish(text: str, mark: str = ".") -> str:
    """Makes a text a sentence: a capital at its start, a mark at its end."""
    return text[0].upper() + text[1:] + mark


def some(rng: Random, slots: Sequence[str], least: int = 1) -> tuple[str, ...]:
    """Returns at least `least` of the slots, every number and every choice equally likely."""
    order = sorted(slots, key=lambda _: rng.random())
    return tuple(order[: least + int(rng.random() * (len(order) - least + 1))])
