"""The claims of the 2020 study and our rows' verdict on each; the claims are typed, the verdicts computed."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from tools.study.recipes import ESSENTIAL, LARGER_RATES
from tools.study.results import Difference, Noise, Row, difference

Parts = Mapping[str, Mapping[str, Row | None]]


@dataclass(frozen=True)
class Pair:
    """Two rows of a part of the study; the claim says that the first has the higher loss."""

    where: str  # what distinguishes it from the claim's other pairs
    part: str
    higher: str
    lower: str

    def measured(self, parts: Parts, noise: Noise) -> Difference | None:
        """Returns the first row's loss minus the second's, or None until both have run."""
        return difference(parts[self.part].get(self.higher), parts[self.part].get(self.lower), noise)


@dataclass(frozen=True)
class Claim:
    """A claim that in each pair of rows one has the higher loss, or that it does not."""

    text: str  # the study's claim with its figures, in our words
    pairs: tuple[Pair, ...]
    equal: bool = False  # the claim is that there is no difference

    def verdict(self, parts: Parts, noise: Noise) -> tuple[str, str]:
        """Returns the verdict, which waits for all planned seeds of each pair, and the measurement."""
        measured = {pair: pair.measured(parts, noise) for pair in self.pairs}
        verdicts = {pair.where: self._of_one(difference) for pair, difference in measured.items()}
        figures = "; ".join(f"{pair.where}: {difference or '—'}" for pair, difference in measured.items())
        if len({*verdicts.values()}) == 1:
            return verdicts[self.pairs[0].where], figures
        return "; ".join(f"{where}: {verdict}" for where, verdict in verdicts.items()), figures

    def _of_one(self, measured: Difference | None) -> str:
        if measured is None:
            return "not run yet"
        if not measured.is_decided:
            found = f"{len(measured.by_seed)} of {measured.planned} seeds"
            return f"not decided yet ({'no row has several seeds' if measured.is_complete else found})"
        if self.equal:
            return "not confirmed, a clear difference" if measured.is_clear else "nothing against it"
        if not measured.is_clear:
            return "no clear difference"
        return "confirmed" if measured.mean > 0 else "the opposite"


def _optimizers(higher: str, lower: str) -> tuple[Pair, ...]:
    """The pairs of two optimizers, where both ran: on each corpus, and for the larger model."""
    pairs = [Pair("cpython", "optimizers", f"cpython: {higher}", f"cpython: {lower}")]
    if {higher, lower} <= {*ESSENTIAL}:
        pairs.append(Pair("kernel", "optimizers", f"kernel: {higher}", f"kernel: {lower}"))
    if {higher, lower} <= {*LARGER_RATES}:
        pairs.append(Pair("larger model", "larger", f"cpython: {higher}", f"cpython: {lower}"))
    return tuple(pairs)


def _embeddings(higher: str, lower: str) -> tuple[Pair, ...]:
    return (Pair("cpython", "embeddings", f"cpython: {higher}", f"cpython: {lower}"),)


def testable(contexts: list[int]) -> list[Claim]:
    """Returns the claims that this scale can test."""
    return [
        Claim(
            "Adafactor, as the study ran it (its decay frozen), ends about 5 perplexity above AdamW",
            _optimizers("frozen", "nanogpt"),
        ),
        Claim(
            "(ours) the gap is the bug's: with the decay repaired, Adafactor is better than it was",
            _optimizers("frozen", "adafactor"),
        ),
        Claim("(ours) with an absolute rate, Adafactor stays worse than AdamW", _optimizers("adafactor", "nanogpt")),
        Claim("(ours) with parameter scaling, Adafactor is better than AdamW", _optimizers("nanogpt", "scaled")),
        Claim(
            "(ours) with momentum too it is better still",
            (
                *_optimizers("scaled", "momentum"),
                Pair("ALGPT2", "embeddings", "cpython: ALGPT2, E = none", "cpython: ALGPT2, E = none, momentum"),
            ),
        ),
        Claim("(ours) Muon is better than Adafactor with parameter scaling", _optimizers("scaled", "muon")),
        Claim(
            "GPT-2 (21.5) is better than ALGPT2 of its width (31 to 38), which has a ninth of its weights or less",
            _embeddings("ALGPT2, E = none", "GPT-2"),
        ),
        Claim(
            "a narrow table costs perplexity: 38 at E = 128, a sixth of the width, against 31 without factorization",
            _embeddings("ALGPT2, E = 24", "ALGPT2, E = none"),
        ),
        Claim(
            "a table of two thirds of the width costs nothing: 31 at E = 512 and 31 without factorization",
            _embeddings("ALGPT2, E = 88", "ALGPT2, E = none"),
            equal=True,
        ),
        Claim(
            "longer contexts help, at equal tokens",
            tuple(
                Pair(f"{short} to {long}", "contexts", str(short), str(long))
                for short, long in itertools.pairwise(contexts)
            ),
        ),
        Claim(
            "without dropout, perplexity is about 3 lower",
            tuple(
                Pair(where, "dropout", f"{where}, dropout 0.1", f"{where}, dropout 0")
                for where in ("cpython: GPT-2", "cpython: ALGPT2", "wikitext: GPT-2")
            ),
        ),
    ]


UNTESTABLE = {
    "GPT-2 takes about 20 h and ALGPT2 about 9 h for 90,000 steps on a v3-128": (
        "no TPU here; [preflight.md](preflight.md) has the TPU compiler's bounds of both steps"
    ),
    "GPT-2 xl with AdamW runs out of a v3 core's memory": (
        "not a matter of this study; the TPU compiler answers it in [preflight.md](preflight.md)"
    ),
    "ALGPT2 medium without factorization reaches 26, against base's 31": (
        "a cell of the larger model would need several times the tokens to be trained as far"
    ),
    "finetuned on WikiText-2, larger GPT-2s are better (29.2, 20.9, 19.6, 18.4 at a context of 256)": (
        "needs OpenAI's weights, which are not part of this project; `finetune.gin` is the run"
    ),
    "zero-shot perplexity on WikiText-2 falls from 23.15 to 14.78 with size": (
        "needs OpenAI's weights too; `python -m pipeline.evaluate --benchmark=wikitext` is the measurement"
    ),
}
