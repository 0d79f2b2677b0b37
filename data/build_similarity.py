r"""Build the set of the similarity study: one picture alone, at every place of a white canvas.

    python data/build_similarity.py --source data/samples/photos --num_captions 13 \
        --output_dir results/samples/similarity

The paper (arXiv 2509.21984) compares a caption with the canvas that holds its picture at each of the 9 places
of the probe, with nothing in the others. The lines of similarity.jsonl have the fields of the probe's; with
the same source, seed and --num_captions, the ids, captions and positions are those of the probe too.
"""

from data.build_canvases import build, make_parser
from models.errors import run_script


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Build the set of the similarity study from image-caption pairs.")
    build("similarity", parser.parse_args(argv), distractors=0)


if __name__ == "__main__":
    run_script(main)
