"""Draw the pictures of docs/memory.md into docs/img.

python docs/make_memory.py [STUDY.json]

Without a study, as `staticgraph pareto --json` writes it, the full U-Net is planned anew.
"""

import sys
from pathlib import Path

from staticgraph import study

HERE = Path(__file__).resolve().parent
STRATEGIES = ("best", "chen-sqrt", "knapsack-dp", "dtr")


def planned():
    """Plans of the full U-Net; nothing is run."""
    sys.path.insert(0, str(HERE.parent / "examples"))
    import study_models

    fn, _ = study_models.unet(size="full")
    return study.pareto(fn, (), "100%..40%:7", STRATEGIES, measure=False, name="U-Net")


def main():
    saved = sys.argv[1:]
    made = study.Study.from_json(Path(saved[0]).read_text()) if saved else planned()
    folder = HERE / "img"
    folder.mkdir(exist_ok=True)
    for picture in ("pareto", "memory", "grid"):
        (folder / f"unet-{picture}.svg").write_text(made.to_svg(picture))
    print(made.table())


if __name__ == "__main__":
    main()
