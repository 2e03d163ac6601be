"""Writes docs/study.md and its plots from the study's run directories; no figure in them comes from anywhere else.

    python -m tools.study.page --run_dir=runs/study --output=docs/study.md
    python -m tools.study.page --run_dir=          # draws the plots again from docs/study.json

What the plots show stands beside the page, as JSON, so that they can be drawn again without the runs.
"""

import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.data.format import manifest
from pipeline.errors import UserError
from tools.study import figures, results
from tools.study.cells import (
    ALGPT2,
    ALGPT2_EMBEDDING,
    CORPORA,
    PACKINGS,
    SIZE,
    VOCABULARY,
    Cell,
    StudyConfig,
    grid,
    parts,
)
from tools.study.claims import UNTESTABLE, Parts, testable
from tools.study.results import Row, best_rates, summary_path

FLAGS = flags.FLAGS
TITLES = {
    "optimizers": "Optimizers, each at the best of its learning rates",
    "embeddings": "ALGPT2 against GPT-2 at equal width, by the width E of the token table",
    "contexts": "Context length at equal tokens",
    "batches": "Batch × learning rate at equal tokens",
    "dropout": "Dropout",
    "packing": "Contiguous against line-by-line packing",
}
NOTES = {
    "optimizers": "`frozen` is Adafactor with the 2020 study's bug ([train.py](../tools/study/train.py)), "
    "`scaled` is Adafactor with parameter scaling; both other Adafactors take absolute rates. "
    "The learning rates were chosen on WikiText with one seed and serve both corpora.",
    "embeddings": "All with Adafactor, GPT-2 at its best learning rate and ALGPT2 at the one that is best for E = "
    f"{ALGPT2_EMBEDDING}.",
    "contexts": "Sequences per step are halved where the context is doubled. Every model is scored at its own context.",
    "batches": "Sequences per step × learning rate.",
    "dropout": "Corpora lists how often a cell passes over its text.",
    "packing": "Equal positions per step, of which line-by-line packing spends a part on padding. Both models are "
    "scored on the same text in both packings. Line by line, a token sees its own line only and the ends of long lines "
    "are not scored: these rows compare with each other alone.",
}


def main() -> None:
    """Writes the page from the run directory's current contents, or its plots from what stands beside it."""
    output = pathlib.Path(FLAGS.output)
    if not FLAGS.run_dir:
        _draw_again(output)
        return
    path = pathlib.Path(FLAGS.run_dir, "study.json")
    if not path.exists():
        raise UserError(f"--run_dir={FLAGS.run_dir} holds no study; expected the run directory of make study")
    write(pathlib.Path(FLAGS.run_dir), output)


def _draw_again(page: pathlib.Path) -> None:
    stored = page.with_suffix(".json")
    if not stored.is_file():
        raise UserError(f"--run_dir is empty, and there is no {stored}; expected the study's run directory")
    figures.draw(json.loads(stored.read_text(encoding="utf-8")), page.with_suffix(""))
    print(f"drew the plots of {page} from {stored}")


def write(folder: pathlib.Path, page: pathlib.Path) -> None:
    """Writes the page and, in a folder of its name beside it, its plots."""
    recorded = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    machine = recorded.pop("machine", None)
    study = StudyConfig(**recorded)
    unrun = [cell for cells in grid(study).values() for cell in cells if not summary_path(folder, cell).exists()]
    if unrun:
        raise UserError(f"{folder}: {len(unrun)} cells of the grid of learning rates are missing; run make study again")
    best = best_rates(folder, study)
    planned = parts(study, best)
    rows: dict[str, dict[str, Row | None]] = {
        part: {label: results.read(folder, cells) for label, cells in labels.items()}
        for part, labels in planned.items()
    }
    rows["packing"] = {
        f"trained on {packing}, scored on {data}": results.read(folder, cells, f"wikitext-{data}")
        for packing, cells in planned["packing"].items()
        for data in PACKINGS
    }
    missing = sum(
        not summary_path(folder, cell).exists()
        for cell in {cell for labels in planned.values() for cells in labels.values() for cell in cells}
    )
    over = {
        name: {f"{cell.rate:g}": results.read(folder, [cell]) for cell in cells} for name, cells in grid(study).items()
    }
    stored = _stored(over, rows, folder, planned["optimizers"])
    text = [_head(study, machine, missing), _claims(rows, study), _corpora(folder / "data", study)]
    text += [_grid(over, best, page.stem)]
    text += [_part(part, rows[part], page.stem, with_curves="curves" in stored) for part in rows]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(text), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    figures.draw(stored, page.with_suffix(""))
    print(f"wrote {page}" + (f"; {missing} cells are not run yet" if missing else ""))


def _stored(
    over: Mapping[str, Mapping[str, Row | None]], rows: Parts, folder: pathlib.Path, curves: Mapping[str, list[Cell]]
) -> dict[str, Any]:
    """Returns what the plots are drawn from, as figures.py says; losses to four digits after the point."""

    def losses(row: Row | None) -> dict[str, float]:
        return {str(seed): round(loss, 4) for seed, loss in row.nats.items()} if row else {}

    stored: dict[str, Any] = {
        "corpus": Cell().corpus,
        "grid": {
            name: {rate: round(row.mean, 4) for rate, row in rates.items() if row} for name, rates in over.items()
        },
        "parts": {part: {label: losses(row) for label, row in labels.items()} for part, labels in rows.items()},
    }
    drawn = {label: results.train_curve(folder, cells[0]) for label, cells in curves.items()}
    if any(drawn.values()):
        stored["curves"] = {label: curve for label, curve in drawn.items() if curve}
    return stored


def _head(study: StudyConfig, machine: str | None, missing: int) -> str:
    remarks = [f"Machine: {machine}."] if machine else []
    remarks += [f"**{missing} cells are not run yet; `make study` continues with them.**"] if missing else []
    return f"""# The study of 2020, re-run small

Written by `python -m tools.study.page` from the run directories of `make study`; nothing here is typed by hand.

The study trained GPT-2 and ALGPT2 on OpenWebText on a v3-128, with an Adafactor whose decay was frozen by a bug. What
can be asked of two CPU cores is asked here again: models of {SIZE},
{study.tokens:,} tokens per run, {study.batch} sequences of {study.context} tokens per step, {study.seeds} seeds. One
corpus is the articles of the WikiText files that were given, split anew by article; the other is the documentation and
library of CPython. Each has its own byte-level BPE vocabulary of {VOCABULARY:,} entries. A perplexity here can be
compared with others on this page only.

Losses are over the whole validation part. ± is the standard deviation over the seeds; in a difference it is the
standard error over the seeds, taken in pairs. Two rows differ clearly if Student's t tells the difference from 0 at
95 %: of three seeds, beyond 4.3 standard errors.

{chr(10).join(remarks)}
"""


def _claims(rows: Parts, study: StudyConfig) -> str:
    lines = [(claim.text, *claim.verdict(rows, study.seeds)) for claim in testable(study.contexts)]
    lines += [(claim, "not testable at this scale", reason) for claim, reason in UNTESTABLE.items()]
    heading = "## Claims\n\nThe 2020 study's, and ours where marked so. "
    heading += "Confirmed is a clear difference of the claimed sign, whatever its size.\n\n"
    return heading + _table(("claim", "here", "measured"), lines)


def _corpora(folder: pathlib.Path, study: StudyConfig) -> str:
    lines = []
    for corpus in CORPORA:
        for packing in PACKINGS:
            data = manifest.load(str(folder / f"{corpus}-{packing}"))
            for name, part in data.parts.items():
                passes = f"{study.tokens / part.tokens:.2f}" if name == "train" else "—"
                shares = [f"{share / part.tokens:.1%}" for share in (part.padding_tokens, part.truncated_tokens)]
                lines.append((f"{corpus}, {name}, {packing}", str(part.documents), f"{part.tokens:,}", passes, *shares))
    header = ("", "documents", "positions", "passes per cell", "padding", "cut off")
    return (
        f"## Corpora\n\nPadding and what is cut off long lines are shares of the positions.\n\n{_table(header, lines)}"
    )


def _grid(over: Mapping[str, Mapping[str, Row | None]], best: Mapping[str, float], folder: str) -> str:
    lines = []
    for name, rates in over.items():
        figures = [f"{rate}: {row.mean:.3f}" for rate, row in rates.items() if row]
        ordered = list(rates)
        chosen = f"{best[name]:g}"
        edge = " (at the grid's edge)" if chosen in (ordered[0], ordered[-1]) else ""
        shown = f"adafactor, for ALGPT2 at E = {ALGPT2_EMBEDDING}" if name == ALGPT2 else name
        lines.append((shown, ", ".join(figures), chosen + edge))
    heading = "## Learning rates\n\nValidation loss in nats per token on WikiText, one seed.\n\n"
    picture = f"\n![Learning rates: validation loss over the rate]({folder}/rates.svg)\n"
    return heading + _table(("optimizer", "rate: loss", "best"), lines) + picture


def _part(part: str, rows: Mapping[str, Row | None], folder: str, *, with_curves: bool) -> str:
    lines = []
    for label, row in rows.items():
        if row is None:
            lines.append((label, *["—"] * 7))
            continue
        loss = f"{row.mean:.3f}" + (f" ± {row.deviation:.3f}" if len(row.nats) > 1 else "")
        figures = (f"{row.rate:g}", f"{row.parameters / 1e6:.2f}", f"{row.flops / 1e6:.1f}", str(len(row.nats)))
        bits = [value for value in row.bits.values() if value is not None]
        mean_bits = f"{statistics.mean(bits):.3f}" if bits else "—"
        lines.append((label, *figures, loss, f"{row.perplexity:.1f}", mean_bits))
    header = ("", "rate", "M parameters", "MFLOPs per token", "seeds", "nats per token", "perplexity", "bits per byte")
    picture = f"![{TITLES[part]}: validation loss]({folder}/{part}.svg)\n" if any(rows.values()) else ""
    if part == "optimizers" and with_curves:
        picture += f"\n![Train loss of the first seed over the tokens]({folder}/tokens.svg)\n"
    return f"## {TITLES[part]}\n\n{NOTES[part]}\n\n{_table(header, lines)}\n{picture}"


def _table(header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    head = list(header)
    rows = [head, ["---"] * len(head), *map(list, lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", "runs/study", "The study's run directory; empty to draw again what is stored.")
    cli.define_path("output", "docs/study.md", "The page to write.")


if __name__ == "__main__":
    cli.run(main, define_flags)
