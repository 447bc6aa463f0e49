"""The sample's sentence pairs: paraphrase, similarity and inference, where words and their overlap decide nothing.

In every pair of classes the same words are exchanged equally often, for a synonym in one class and for a contrast in
the other, so only what the words mean, and who does what to whom, tells the classes apart.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from kpeft.glue.sample_grammar import (
    Event,
    base,
    clause,
    draw_adjuncts,
    draw_event,
    finish,
    noun_phrase,
    sentence,
    some,
)
from kpeft.glue.sample_words import pick

Texts = tuple[str, ...]


def mrpc(rng: Random, label: int) -> Texts:
    """Returns two sentences that tell one event (1) or not (0)."""
    kind = rng.random()
    event = draw_event(rng, people=True if kind < 0.1 else None)
    if kind < 0.1:
        other = event.with_synonyms(some(rng, event.slots, least=0))
        other = other if label else other.swapped()
    elif kind < 0.2:
        other = _reworded(rng, event, same=bool(label))
    else:
        other = _retold(rng, event, same=bool(label))
    adjuncts = draw_adjuncts(rng)
    return _tell(rng, replace(event, adjuncts=adjuncts)), _tell(rng, replace(other, adjuncts=adjuncts))


def qqp(rng: Random, label: int) -> Texts:
    """Returns two questions that ask the same (1) or not (0)."""
    event = draw_event(rng, people=False)
    other = (_reworded if rng.random() < 0.2 else _retold)(rng, event, same=bool(label))
    return _question(rng, event), _question(rng, other)


def stsb(rng: Random) -> tuple[Texts, float]:
    """Returns two sentences, and how much of their meaning they share, from 0 to 5."""
    event = draw_event(rng, people=False)
    adjuncts = draw_adjuncts(rng)
    weights = {"agent": 1.0, "act": 1.5, "patient": 1.5, "quality": 1.0}
    changed = some(rng, event.slots, least=0)
    other = event.with_synonyms([slot for slot in some(rng, event.slots, least=0) if slot not in changed])
    for slot in changed:
        other = other.with_contrast(slot, rng)
    score = 5.0 - sum(weights[slot] for slot in changed)
    first, second = replace(event, adjuncts=adjuncts), replace(other, adjuncts=adjuncts)
    return (_tell(rng, first), _tell(rng, second)), score


def rte(rng: Random, label: int) -> Texts:
    """Returns a premise of one or two events and a hypothesis that follows (0) or does not (1)."""
    first = draw_event(rng)
    events = [first, draw_event(rng, besides=(first,))]
    asked = pick(rng, (0, 1))
    kind = rng.random()
    if kind < 0.8:
        hypothesis = _retold(rng, events[asked], same=not label, besides=events[1 - asked])
        if rng.random() < 0.75:
            events = [events[asked]]
    elif kind < 0.9:
        hypothesis = _reworded(rng, events[asked], same=not label)
    elif kind < 0.95:
        hypothesis = _denied(rng, events, asked, same=not label)
    else:
        hypothesis = replace(events[asked], agent=events[1 - asked if label else asked].agent)
    link = pick(rng, (", and ", ", while ", "; ", ", but "))
    told = link.join(clause(event, passive=rng.random() < 0.3) for event in events)
    where = " ".join(draw_adjuncts(rng))
    premise = finish(f"{where}, {told}" if rng.random() < 0.5 else f"{told} {where}")
    return premise, sentence(hypothesis, passive=rng.random() < 0.3)


def mnli(rng: Random, label: int, *, reported: bool = False) -> Texts:
    """Returns a premise and a hypothesis: entailed (0), neutral (1), contradicted (2); `reported` is another genre."""
    event = replace(draw_event(rng, people=False), never=rng.random() < 0.3)
    if label == 1:
        other = draw_event(rng, people=False, besides=(event,))
        hypothesis = replace(event, agent=other.agent, patient=other.patient, quality=other.quality)
    elif label == 2 and (event.never or rng.random() < 0.5):
        hypothesis = replace(event, never=not event.never)
    elif label == 2:
        hypothesis = event.with_contrast("act", rng)
    else:
        hypothesis = event
    changed = some(rng, ("agent", "patient", "quality"), least=0)
    premise = _tell(rng, replace(event, adjuncts=draw_adjuncts(rng)))
    if reported:
        premise = pick(rng, ("You know what? ", "I heard it on the radio: ", "Listen to this. ", "Oh yes! ")) + premise
    return premise, _tell(rng, hypothesis.with_synonyms(changed))


def _retold(rng: Random, event: Event, *, same: bool, besides: Event | None = None) -> Event:
    """Keeps some words as they are; the others become synonyms, or the words of another event unless `same`."""
    kept = [slot for slot in event.slots if rng.random() < 0.2]
    other = draw_event(rng, people=event.quality is None, besides=(event, *([besides] if besides else [])))
    if same:
        return event.with_synonyms([slot for slot in event.slots if slot not in kept])
    return other.with_words({slot: event.word(slot) for slot in kept})


def _reworded(rng: Random, event: Event, *, same: bool) -> Event:
    """Exchanges words for synonyms; unless `same`, one of them for a contrast."""
    first, *others = some(rng, event.slots)
    other = event.with_synonyms(others)
    return other.with_synonyms((first,)) if same else other.with_contrast(first, rng)


def _denied(rng: Random, events: list[Event], asked: int, *, same: bool) -> Event:
    """Denies one of the events in place, and returns the asked one as told, or with the denial turned round."""
    denied = pick(rng, (0, 1))
    hypothesis = replace(events[asked], never=(denied == asked) == same)
    events[denied] = replace(events[denied], never=True)
    return hypothesis


def _tell(rng: Random, event: Event) -> str:
    return sentence(event, passive=rng.random() < 0.4, front=rng.random() < 0.4)


def _question(rng: Random, event: Event) -> str:
    form = pick(
        rng,
        (
            "How can I {}?",
            "How do I {}?",
            "What is the best way to {}?",
            "Is there a good way to {}?",
            "What should I do to {}?",
            "What do I need to {}?",
        ),
    )
    return form.format(f"{base(event.act)} {noun_phrase(event.patient, event.quality, article='a')}")
