"""Build the probe of spatial bias: a picture at every place of a canvas, among eight that keep their order.

    python data/build_probe.py --source data/samples/photos --num_captions 13 --output_dir results/samples/probe

The paper's probe (arXiv 2509.21984) has 10,000 captions from LAION, each on 9 canvases of 840x840 px: the
defaults. Every line of probe.jsonl asks whether a caption is shown: {"id", "image", "caption", "position",
"answer"}. The answer is always "Yes" unless --negatives is given: then a share of the captions has its
canvases asked once more, as `<id>_no`, with the caption of a picture that is not there ("No"), so that saying
yes to all is found out.
"""

from data.build_canvases import build, make_parser
from models.errors import InputError, run_script


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Build the probe of spatial bias from image-caption pairs.")
    parser.add_argument("--negatives", type=float, default=0.0, help="share of captions asked as No too (0 to 1)")
    args = parser.parse_args(argv)
    if not 0 <= args.negatives <= 1:
        raise InputError(f"--negatives {args.negatives}: must be 0 to 1")
    build("probe", args, distractors=args.grid**2 - 1, negatives=args.negatives)


if __name__ == "__main__":
    run_script(main)
