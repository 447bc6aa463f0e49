"""The sample's single sentences (acceptability, sentiment), questions with and without answers, and pronouns."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from kpeft.glue.sample_grammar import base, clause, draw_event, finish, noun_phrase, past, sentence
from kpeft.glue.sample_words import PEOPLE, PLACES, TIMES, draw, pick

Texts = tuple[str, ...]

_GOOD = ("funny", "moving", "brilliant", "charming", "gripping", "delightful", "clever", "touching", "fresh", "superb")
_BAD = ("dull", "boring", "clumsy", "tedious", "lifeless", "awful", "predictable", "dreary", "stale", "pointless")
_SUBJECTS = (
    "the film",
    "this movie",
    "the script",
    "the acting",
    "the plot",
    "the dialogue",
    "the ending",
    "the story",
)
_AFFIRMING = ("is {}", "is consistently {}", "turns out to be {}", "is never less than {}", "could hardly be more {}")
_DENYING = ("is not {}", "is never {}", "is anything but {}", "fails to be {}", "is far from {}")
_TAILS = (
    "",
    "from start to finish",
    "for all of its two hours",
    "in the second half",
    "despite its famous cast",
    "even on a small screen",
)

# Sentence with the pronoun; what follows when it means the first, and when it means the second; the hypothesis.
_PRONOUNS = (
    ("{a} thanked {b} because {p} had {}.", "received help", "given help", "{} had {}."),
    ("{a} could not lift {b} because {p} was too {}.", "weak", "heavy", "{} was too {}."),
    ("{a} lent {b} money because {p} was {}.", "rich", "poor", "{} was {}."),
    ("{a} asked {b} a question because {p} {} the answer.", "needed", "knew", "{} {} the answer."),
    ("{a} paid {b} after {p} had {} the goods.", "received", "delivered", "{} had {} the goods."),
    ("{a} beat {b} in the race because {p} was so {}.", "fast", "slow", "{} was so {}."),
    ("{a} could not see {b} because {p} was {}.", "nearly blind", "well hidden", "{} was {}."),
    ("{a} apologized to {b} because {p} had {}.", "been rude", "been insulted", "{} had {}."),
)


def cola(rng: Random, label: int) -> Texts:
    """Returns a sentence that is acceptable (1), or breaks agreement, verb form or word order (0)."""
    kind = rng.random()
    event = draw_event(rng, people=True if kind < 0.4 else None)
    subject, act, patient = event.agent.text, event.act, noun_phrase(event.patient, event.quality)
    place = pick(rng, (*PLACES, *TIMES))
    if kind < 0.4:
        plural = rng.random() < 0.5
        was = "were" if plural == bool(label) else "was"
        return (finish(f"the {subject}{'s' if plural else ''} {was} {past(act)} by {patient} {place}"),)
    if kind < 0.7:
        did = rng.random() < 0.5
        verb = base(act) if did == bool(label) else past(act)
        return (finish(f"the {subject} {'did not' if did else 'has never'} {verb} {patient}"),)
    words = [*clause(event, passive=rng.random() < 0.4).split(), *place.split()]
    if not label:
        at = int(rng.random() * 3)
        words[at], words[at + 1] = words[at + 1], words[at]
    return (finish(" ".join(words)),)


def sst2(rng: Random, label: int) -> Texts:
    """Returns a phrase on a film, positive (1) or negative (0), half of them by way of a denial."""
    denies = rng.random() < 0.5
    words = _GOOD if bool(label) != denies else _BAD
    said = pick(rng, _DENYING if denies else _AFFIRMING).format(pick(rng, words))
    return (" ".join(filter(None, (pick(rng, _SUBJECTS), said, pick(rng, _TAILS)))),)


def qnli(rng: Random, label: int) -> Texts:
    """Returns a question and a sentence that answers it (0) or does not (1)."""
    where, when = pick(rng, PLACES), pick(rng, TIMES)
    asks_where = rng.random() < 0.5
    adjunct = where if asks_where != bool(label) else when
    event = draw_event(rng)
    told = replace(event, adjuncts=(adjunct,))
    asked = event.with_synonyms([slot for slot in event.slots if rng.random() < 0.4])
    patient = noun_phrase(asked.patient, asked.quality)
    question = f"{'Where' if asks_where else 'When'} did {noun_phrase(asked.agent)} {base(asked.act)} {patient}?"
    return question, sentence(told, passive=rng.random() < 0.4, front=rng.random() < 0.4)


def wnli(rng: Random, label: int) -> Texts:
    """Returns a sentence with a pronoun and one that says whom it means, rightly (1) or wrongly (0)."""
    first = draw(rng, PEOPLE)
    people = (noun_phrase(first), noun_phrase(draw(rng, PEOPLE, besides=(first,))))
    template, *reasons, hypothesis = pick(rng, _PRONOUNS)
    meant = pick(rng, (0, 1))
    told = template.format(reasons[meant], a=people[0], b=people[1], p=pick(rng, ("he", "she")))
    named = people[meant] if label else people[1 - meant]
    return finish(told, mark=""), finish(hypothesis.format(named, reasons[meant]), mark="")
