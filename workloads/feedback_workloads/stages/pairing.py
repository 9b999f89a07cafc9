"""pairing: score answers by the labeler's verdicts, pair those of one instruction (paper, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

from feedback_workloads.benchmarks import benchmark
from feedback_workloads.contract import (
    STATISTICS_NAME,
    BadInput,
    BenchmarkType,
    PairingConfig,
    canonical_json,
    shard_uri,
)
from feedback_workloads.method.judgement import Judgement
from feedback_workloads.method.pairing import Balance, Pair, ScoredAnswer, balance_lengths, combine, draw, score
from feedback_workloads.process.outcome import Outcome
from feedback_workloads.rows.identity import row_seed
from feedback_workloads.rows.instructions import Instruction
from feedback_workloads.rows.pair_files import asked_columns
from feedback_workloads.rows.rejected import BadRow, Rejected
from feedback_workloads.rows.schemas import CLAIMS, PAIRS, PAIRS_OF_CONVERSATIONS, SAMPLES, VERDICTS
from feedback_workloads.stages import published

if TYPE_CHECKING:
    import pyarrow as pa

    from feedback_workloads.process.progress import Progress
    from feedback_workloads.storage.artifacts import ArtifactStore
    from feedback_workloads.storage.parts import Parts

PART_PAIRS: Final = 256  # pairs a part file, which bounds the pictures in memory

Key = tuple[str, int]  # id of the instruction, number of the candidate
Judge = Callable[[str, str], Judgement | None]  # of a text about the picture of an instruction, by its id
Fate = Literal["scored", "without_claims", "unlabelled", "truncated", "mismatched"]


@dataclass(frozen=True)
class Verdicts:
    """What the labeler says about the claims of an answer: which it accepts, and its probability of yes."""

    accepted: list[bool]
    p_yes: list[float]


@dataclass(frozen=True)
class Labelled:
    """One answer with what earlier stages found. `claims` and `verdicts` are None where a stage left the answer out."""

    key: Key
    text: str
    finish_reason: str
    claims: list[str] | None
    verdicts: Verdicts | None

    @property
    def accepted(self) -> list[bool] | None:
        return self.verdicts and self.verdicts.accepted

    @property
    def fate(self) -> Fate:
        """Whether the answer gets a score, or why not.

        `truncated`: it has no end of sequence, so that the trainer could not learn where to stop; `unlabelled`: an
        earlier stage left it out; `mismatched`: its numbers of claims and verdicts differ, which is rejected.
        """
        if self.finish_reason == "length":
            return "truncated"
        if self.claims is None or self.accepted is None:
            return "unlabelled"
        if len(self.claims) != len(self.accepted):
            return "mismatched"
        return "scored" if self.claims else "without_claims"


class LabelledAnswers:
    """Every sampled answer by instruction and candidate, in this order, with its claims and verdicts.

    The tokens stay in Arrow, where they take a tenth of the memory of Python objects.
    """

    def __init__(self, samples: pa.Table, claims: dict[Key, list[str]], verdicts: dict[Key, Verdicts]) -> None:
        light = samples.select(["id", "candidate", "answer", "finish_reason"]).to_pylist()
        keyed = sorted((_key(row), row["answer"], row["finish_reason"]) for row in light)
        self._by_key = {key: Labelled(key, text, end, claims.get(key), verdicts.get(key)) for key, text, end in keyed}
        self._place = {_key(row): place for place, row in enumerate(light)}
        self._tokens = samples.select(["token_ids", "logprobs"]).combine_chunks()

    def of(self, *fates: Fate) -> list[Labelled]:
        """The answers that met one of the fates; all of them where none is named."""
        return [one for one in self._by_key.values() if one.fate in fates or not fates]

    def pair_row(self, pair: Pair, instruction: Instruction, schema: pa.Schema) -> dict[str, Any]:
        """The row of `schema` for `pair`."""
        return {
            "id": pair.id,
            **asked_columns(schema, instruction.messages, instruction.images),
            **self._side("chosen", pair.id, pair.chosen),
            **self._side("rejected", pair.id, pair.rejected),
        }

    def _side(self, side: str, id: str, answer: ScoredAnswer) -> dict[str, Any]:
        key = (id, answer.candidate)
        tokens = self._tokens.slice(self._place[key], 1).to_pylist()[0]
        return {
            side: answer.text,
            f"{side}_token_ids": tokens["token_ids"],
            f"{side}_logps": tokens["logprobs"],
            f"{side}_candidate": answer.candidate,
            f"{side}_score": answer.score,
            f"{side}_claims": self._by_key[key].claims,
            f"{side}_accepted": self._by_key[key].accepted,
        }


@dataclass(frozen=True)
class Selection:
    """The pairs, and how many there were after each step."""

    funnel: dict[str, int]
    drawn: Sequence[Pair]
    balance: Balance

    @property
    def pairs(self) -> Sequence[Pair]:
        return self.balance.pairs


def run(config: PairingConfig, shard: int, store: ArtifactStore, progress: Progress) -> Outcome:
    """Write PAIRS, or PAIRS_OF_CONVERSATIONS, with the pictures embedded, and statistics.json.

    Deterministic: the same samples, claims and verdicts give the same bytes in whatever order their shards are named.
    Raises BadInput where no pair is left, naming the step that lost the last one.
    """
    if config.published:
        return published.run(config, config.published, shard, store, progress)
    assert config.instructions, "the configuration has either"
    progress.phase("scoring answers")
    answers = LabelledAnswers(
        store.read_table(config.samples, SAMPLES),
        {_key(row): row["claims"] for row in store.rows(config.claims, CLAIMS, ["id", "candidate", "claims"])},
        {
            _key(row): Verdicts(row["accepted"], row["p_yes"])
            for row in store.rows(config.verdicts, VERDICTS, ["id", "candidate", "accepted", "p_yes"])
        },
    )
    selection = select(config, answers)
    progress.phase("writing pairs")
    output = shard_uri(config, shard)
    schema = PAIRS_OF_CONVERSATIONS if store.survey(config.instructions).conversations else PAIRS
    with store.append(output, schema) as parts:
        instructions = store.instructions(config.instructions)
        truths = write_pairs(selection.pairs, answers, instructions, parts, progress)
    statistics = summarise(selection, answers, judge_of(config.truth, truths))
    file = store.put(canonical_json(statistics), output, STATISTICS_NAME)
    return Outcome(
        files=(*parts.files(), file),
        counts={**parts.counts(), **selection.funnel},
        metrics=statistics["metrics"],
    )


def select(config: PairingConfig, answers: LabelledAnswers) -> Selection:
    """Score, combine, draw and balance. Raises BadInput where nothing is left, naming the step and the remedy."""
    candidates = answers.of()
    fates = Counter(one.fate for one in candidates)
    combined = {
        id: combine(id, map(_answer, group), config.min_score_difference)
        for id, group in groupby(answers.of("scored"), key=lambda one: one.key[0])
    }
    drawn = [
        pair
        for id, pairs in combined.items()
        for pair in draw(pairs, config.pairs_per_instruction, row_seed(config.seed, id, candidate=-1))
    ]
    balance = balance_lengths(drawn) if config.length_balance else Balance(tuple(drawn), None)
    funnel = {
        "instructions": len({one.key[0] for one in candidates}),
        "candidates": len(candidates),
        **{fate: fates[fate] for fate in ("truncated", "unlabelled", "mismatched", "without_claims", "scored")},
        "combinations": sum(map(len, combined.values())),
        "drawn": len(drawn),
        "balanced": len(balance.pairs),
    }
    if not balance.pairs:
        raise BadInput(_why_empty(config, funnel))
    return Selection(funnel, drawn, balance)


def write_pairs(
    pairs: Sequence[Pair],
    answers: LabelledAnswers,
    instructions: Iterable[Instruction | Rejected],
    parts: Parts,
    progress: Progress,
) -> dict[str, str]:
    """Write pairs and rejected answers in the order of the instructions; return all truths that are known, by id.

    Each picture is read once. Where an instruction is no longer there, its id is rejected.
    """
    pairs_of = {id: list(group) for id, group in groupby(pairs, key=lambda pair: pair.id)}
    rejected_of = {
        id: list(group) for id, group in groupby(map(_rejected, answers.of("mismatched")), key=lambda row: row.id)
    }
    finished = parts.finished_ids()
    missing = pairs_of.keys() | rejected_of.keys()
    progress.start(total=len(missing), done=len(missing & finished))
    truths: dict[str, str] = {}
    part: list[dict[str, Any]] = []
    rejected: list[Rejected] = []

    def flush() -> None:
        parts.write(part, rejected)
        progress.count("pairs", len(part))
        progress.count("rejected", len(rejected))
        part.clear()
        rejected.clear()

    for instruction in instructions:
        if isinstance(instruction, Rejected):
            continue
        if instruction.truth is not None:
            truths[instruction.id] = instruction.truth
        if instruction.id not in missing:
            continue
        missing.remove(instruction.id)
        if instruction.id in finished:
            continue
        part += [answers.pair_row(pair, instruction, parts.schema) for pair in pairs_of.get(instruction.id, ())]
        rejected += rejected_of.get(instruction.id, ())
        progress.advance()
        if len(part) >= PART_PAIRS:
            flush()
    gone = sorted(missing - finished)
    rejected += [Rejected(id, None, "missing-instruction", "the instructions have no such id any more") for id in gone]
    flush()
    return truths


def judge_of(kind: BenchmarkType | None, truths: Mapping[str, str]) -> Judge | None:
    """Says what a benchmark finds in a text about an instruction's picture; None where the truth is not known.

    None, too, where no benchmark is named. The judge raises BadInput naming a truth that the benchmark cannot read.
    """
    if kind is None:
        return None
    judge = benchmark(kind).judge

    def judged(id: str, text: str) -> Judgement | None:
        if id not in truths:
            return None
        try:
            return judge(text, truths[id])
        except BadRow as bad:
            raise BadInput(f"the truth of instruction {id!r} is not one of {kind}: {bad.detail}") from bad

    return judged


def agreement(pairs: Iterable[Pair], judge: Judge) -> dict[str, float]:
    """How often the truth agrees with the labeler, over the pairs whose truth is known; empty where there is none.

    `truth_agreement` is the share of pairs whose chosen answer has fewer hallucinated mentions than the rejected one,
    `truth_ties` the share where it has as many.
    """
    both = ((judge(pair.id, pair.rejected.text), judge(pair.id, pair.chosen.text)) for pair in pairs)
    differences = [rejected.hallucinated - chosen.hallucinated for rejected, chosen in both if rejected and chosen]
    return {
        **_share("truth_agreement", [difference > 0 for difference in differences]),
        **_share("truth_ties", [difference == 0 for difference in differences]),
    }


@dataclass(frozen=True)
class KnownClaim:
    """A claim in which the benchmark finds something to judge: what the labeler says of it, and whether it is true."""

    p_yes: float
    accepted: bool
    true: bool


@dataclass(frozen=True)
class KnownAnswer:
    """An answer whose truth is known: whether the labeler is right about the whole, and its claims to be judged.

    It is right where it accepts all claims and nothing is untrue, and where it does not and something is.
    """

    right: bool
    claims: tuple[KnownClaim, ...]


def known_answers(answers: Iterable[Labelled], judge: Judge) -> list[KnownAnswer]:
    """Those of the scored answers whose truth is known."""
    known: list[KnownAnswer] = []
    for answer in answers:
        id, verdicts = answer.key[0], answer.verdicts
        if verdicts is None or (found := judge(id, answer.text)) is None:
            continue
        said = zip(answer.claims or (), verdicts.p_yes, verdicts.accepted, strict=True)
        judged = [(judge(id, claim), p_yes, accepted) for claim, p_yes, accepted in said]
        claims = tuple(
            KnownClaim(p_yes, accepted, one.hallucinated == 0)
            for one, p_yes, accepted in judged
            if one and one.mentions
        )
        known.append(KnownAnswer(all(verdicts.accepted) == (found.hallucinated == 0), claims))
    return known


def accuracy(known: Sequence[KnownAnswer]) -> dict[str, float]:
    """How often the labeler is right: `true_claims_accepted` and `untrue_claims_rejected` are shares of the claims,
    `answers_right` of the answers; what was never to be judged has no share.
    """
    claims = [claim for answer in known for claim in answer.claims]
    return {
        **_share("labeler.true_claims_accepted", [claim.accepted for claim in claims if claim.true]),
        **_share("labeler.untrue_claims_rejected", [not claim.accepted for claim in claims if not claim.true]),
        **_share("labeler.answers_right", [answer.right for answer in known]),
    }


def calibration(known: Sequence[KnownAnswer]) -> list[dict[str, float]]:
    """Claims by the labeler's p(yes), in tenths: how many, its mean, and how many of them are true; without empty ones.

    A labeler that knows how sure it is has as many true ones among them as its p(yes) says.
    """
    tenths: dict[int, list[KnownClaim]] = {}
    for claim in (claim for answer in known for claim in answer.claims):
        tenths.setdefault(min(int(10 * claim.p_yes), 9), []).append(claim)
    return [
        {"claims": len(some), "p_yes": fmean(one.p_yes for one in some), "true": sum(one.true for one in some)}
        for _, some in sorted(tenths.items())
    ]


def _share(name: str, found: Sequence[bool]) -> dict[str, float]:
    return {name: sum(found) / len(found)} if found else {}


def summarise(selection: Selection, answers: LabelledAnswers, judge: Judge | None) -> dict[str, Any]:
    """The content of statistics.json.

    `funnel`: numbers at each step; `metrics`: mean lengths before and after the length balance, its threshold,
    agreement of labeler and pairs with the truth; `scores`: answers by score; `differences`: pairs by difference of
    scores; `words`: pairs by length of either side, before (`drawn`) and after (`balanced`) the length balance;
    `calibration`: see there, only where a benchmark judges.
    """
    known = known_answers(answers.of("scored"), judge) if judge else []
    steps = {"drawn": selection.drawn, "balanced": selection.pairs}
    lengths = {
        step: {"chosen": [pair.chosen.words for pair in pairs], "rejected": [pair.rejected.words for pair in pairs]}
        for step, pairs in steps.items()
    }
    threshold = selection.balance.threshold
    return {
        "funnel": selection.funnel,
        "metrics": {
            **{
                f"{step}.{side}_words": fmean(words) for step, sides in lengths.items() for side, words in sides.items()
            },
            **({} if threshold is None else {"balance_threshold": threshold}),
            **(agreement(selection.pairs, judge) if judge else {}),
            **accuracy(known),
        },
        "scores": _histogram(_answer(one).score for one in answers.of("scored")),
        "differences": _histogram(pair.chosen.score - pair.rejected.score for pair in selection.pairs),
        "words": {step: {side: _histogram(words) for side, words in sides.items()} for step, sides in lengths.items()},
        **({"calibration": calibration(known)} if judge else {}),
    }


def _why_empty(config: PairingConfig, funnel: dict[str, int]) -> str:
    """One sentence on the first step that left nothing."""
    if not funnel["candidates"]:
        return "the samples have no answers, so there are no pairs; see what sampling rejected"
    if not funnel["scored"]:
        return (
            f"none of {funnel['candidates']} answers has a score ({funnel['truncated']} cut at "
            f"spec.sampling.maxNewTokens, {funnel['unlabelled']} not labelled, {funnel['mismatched']} with too few or "
            f"too many verdicts, {funnel['without_claims']} without claims), so there are no pairs; raise that, or "
            "change spec.splitting"
        )
    if not funnel["combinations"]:
        return (
            f"no two of {funnel['scored']} scored answers to one instruction differ in their text and by "
            f"spec.pairing.minScoreDifference {config.min_score_difference}; sample more candidates, or at a "
            "higher temperature"
        )
    if not funnel["drawn"]:
        return (
            f"spec.pairing.perInstruction is {config.pairs_per_instruction}, so no pair is drawn; set it to 1 or more"
        )
    return (
        f"the length balance dropped all {funnel['drawn']} pairs, for each chosen answer is empty beside its rejected "
        "one; set spec.pairing.lengthBalance to Disabled"
    )


def _key(row: Mapping[str, Any]) -> Key:
    return row["id"], row["candidate"]


def _answer(one: Labelled) -> ScoredAnswer:
    value = score(one.accepted or ())
    assert value is not None, f"{one.key} has no score"
    return ScoredAnswer(one.key[1], value, one.text)


def _rejected(one: Labelled) -> Rejected:
    detail = f"{len(one.claims or ())} claims but {len(one.accepted or ())} verdicts"
    return Rejected(*one.key, "verdict-count", detail)


def _histogram(values: Iterable[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}
