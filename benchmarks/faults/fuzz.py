"""Do the readers of files survive hostile bytes? Coverage-guided fuzzing of one reader, with atheris.

    pip install atheris && python -m benchmarks.faults.fuzz READER [--seconds 60] [--out build/fuzz]

Takes --seconds. Without READER it lists the names. A finding is left in --out as the bytes that caused it, and its
traceback is printed; once fixed, it becomes a case of tests/faults/test_fuzz.py. Inputs that cover something new are
kept in --out, and the next start resumes from them. The readers and whole inputs are those of tests/support/fuzzing.py.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path


def main() -> None:
    """Fuzz one reader."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", nargs="?")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    import atheris
    import torch  # before atheris instruments what is imported next

    with atheris.instrument_imports(include=["gsd_cli", "PIL", "tarfile", "zipfile", "csv", "tomllib"]):
        from tests.support.fuzzing import readers

    from gsd_cli.core.models.beta_schedule import BetaSchedule
    from gsd_cli.core.models.denoiser import Denoiser
    from gsd_cli.core.models.diffusers_folder import save_denoiser
    from gsd_cli.core.training.unets import build_unet

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    work = options.out.resolve()
    scratch = work / f"scratch-{torch.randint(10**9, ()).item()}"
    scratch.mkdir(parents=True)
    save_denoiser(Denoiser(build_unet("tiny", 16, 1), BetaSchedule.linear()), scratch / "teacher", half=False)
    known = readers(scratch, scratch / "teacher")
    if options.reader not in known:
        raise SystemExit("readers: " + ", ".join(known))
    reader, corpus = known[options.reader], work / options.reader.replace(" ", "-")
    corpus.mkdir(exist_ok=True)
    for number, whole in enumerate(reader.whole):
        (corpus / f"whole-{number}").write_bytes(whole)
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={options.seconds}", f"-artifact_prefix={work}/", "-seed=1"]
    atheris.Setup(arguments, reader.survives)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
