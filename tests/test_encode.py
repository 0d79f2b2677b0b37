"""train/encode.py: what is supervised, how long a sample is, and that training sees the prompts of evaluation."""

import copy

import pytest
import torch
from PIL import Image

from data.instruction_formats import typed_parts
from eval.generate import prepare
from models.errors import InputError
from models.tiny import FAMILIES
from tests.encoded import CONVERSATIONS, conversation, encode, pictures, supervised_text
from tests.pictures import picture
from train.encode import IGNORED, Encoder, image_size, open_image

# An answer with what the model must learn to say around it.
SAID = {
    "llava": " {}</s>",
    "llava_next_mistral": " {} </s>",
    "llava_next_llama3": "{}<|eot_id|>",
    "qwen2_5_vl": "{}<|im_end|>",
    "gemma3": "{}<end_of_turn>",
}
# The first token of every prompt; Qwen2.5-VL has none.
BOS = {name: "<s>" for name in FAMILIES} | {
    "llava_next_llama3": "<|begin_of_text|>",
    "gemma3": "<bos>",
    "qwen2_5_vl": None,
}
SHAPES = [(56, 56), (1, 1), (28, 28), (57, 31), (100, 20), (20, 100), (640, 128), (333, 77), (900, 901), (2000, 1500)]


def with_template(kit, template: str):
    """The kit's processor with another chat template."""
    processor = copy.copy(kit.processor)
    processor.chat_template = template
    return processor


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_answers_are_supervised(kit, name):
    sample = encode(Encoder(kit.processor), name)
    answers = [turn["content"] for turn in CONVERSATIONS[name][0] if turn["role"] == "assistant"]
    assert supervised_text(kit, sample) == "".join(SAID[kit.family].format(answer) for answer in answers)
    supervised = sample["labels"] != IGNORED
    assert torch.equal(sample["labels"][supervised], sample["input_ids"][supervised])
    assert not supervised[sample["input_ids"] == kit.image_token_id].any()


@pytest.mark.parametrize("name", ["text only", "hard"])
def test_supervised_is_what_the_template_marks_as_generated(kit, name):
    hard = conversation("2", "2", "2 2", "2 2", "2", "2 </b>\n", system="2")  # answers that stand elsewhere, too
    turns = hard if name == "hard" else CONVERSATIONS[name][0]
    sample = Encoder(kit.processor).encode(turns, [])
    marked = kit.processor.tokenizer.apply_chat_template(
        turns, chat_template=kit.processor.chat_template, return_assistant_tokens_mask=True, return_dict=True
    )
    with_bos = len(sample["input_ids"]) - len(marked["input_ids"])
    assert with_bos == (BOS[kit.family] is not None)
    assert sample["input_ids"][with_bos:].tolist() == marked["input_ids"]
    assert (sample["labels"] != IGNORED)[with_bos:].int().tolist() == marked["assistant_masks"]


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_before_an_answer_stands_what_evaluation_feeds(kit, name, tmp_path):
    turns, sizes = CONVERSATIONS[name]
    files = iter([tmp_path / f"{place}.png" for place in range(len(sizes))])
    for place, image in enumerate(pictures(*sizes)):
        image.save(tmp_path / f"{place}.png")
    as_parts = [{"role": turn["role"], "content": typed_parts(turn["content"])} for turn in turns]
    for part in (part for turn in as_parts for part in turn["content"] if part["type"] == "image"):
        part["path"] = str(next(files))
    batch = prepare(kit.processor, [(0, as_parts[:-1])])  # the last turn is the answer
    sample = encode(Encoder(kit.processor), name)
    prompt = batch.inputs["input_ids"][0]
    assert torch.equal(sample["input_ids"][: len(prompt)], prompt)
    assert sample["labels"][len(prompt)] != IGNORED
    assert sample["labels"][len(prompt) - 1] == IGNORED
    for field in ("pixel_values", "image_sizes", "image_grid_thw"):
        assert (field in sample) == (field in batch.inputs)
        if field in sample:
            assert torch.equal(sample[field], batch.inputs[field])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_tokens_are_counted_without_pixels(kit, shape):
    encoder, turns = Encoder(kit.processor), conversation("<image>\nWhat?", "That.")
    image = picture(*shape)
    assert encoder.count_tokens(turns, [(image.height, image.width)]) == len(encoder.encode(turns, [image])["labels"])


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_tokens_of_conversations_are_counted(kit, name):
    turns, sizes = CONVERSATIONS[name]
    encoder = Encoder(kit.processor)
    counted = encoder.count_tokens(turns, [(height, width) for width, height in sizes])
    assert counted == len(encode(encoder, name)["labels"])


@pytest.mark.parametrize("max_pixels", [28 * 28, 28 * 28 * 9, 28 * 28 * 1000])
def test_image_max_pixels(kits, max_pixels):
    """Qwen2.5-VL's images get smaller, never larger than the checkpoint says, and the checkpoint's own stay."""
    kit, turns, image = kits["qwen2_5_vl"], conversation("<image>\nWhat?", "That."), picture(300, 200)
    plain = Encoder(kit.processor).encode(turns, [image])
    encoder = Encoder(kit.processor, image_max_pixels=max_pixels)
    small = encoder.encode(turns, [image])
    assert int((small["input_ids"] == kit.image_token_id).sum()) <= min(max_pixels // 28**2, 36)
    assert len(small["labels"]) == encoder.count_tokens(turns, [(200, 300)])
    assert (len(small["labels"]) < len(plain["labels"])) == (max_pixels < 28 * 28 * 36)
    assert torch.equal(Encoder(kit.processor).encode(turns, [image])["pixel_values"], plain["pixel_values"])


def test_image_max_pixels_that_cannot_be(kits):
    with pytest.raises(InputError, match="image_max_pixels: 783 is below the checkpoint's smallest, 784"):
        Encoder(kits["qwen2_5_vl"].processor, image_max_pixels=783)
    for family in set(FAMILIES) - {"qwen2_5_vl"}:
        with pytest.raises(InputError, match="image_max_pixels: this family scales every image to one size"):
            Encoder(kits[family].processor, image_max_pixels=28 * 28 * 4)


@pytest.mark.parametrize("orientation", range(10))  # 0 and 9 mean nothing
def test_turned_pictures(tmp_path, orientation):
    """Cameras store pictures lying on their side and say so; size and pixels are of the upright one."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn = picture(90, 40)
    drawn.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    opened = open_image(tmp_path / "turned.jpg")
    assert image_size(tmp_path / "turned.jpg") == (opened.height, opened.width)
    assert opened.size == ((40, 90) if orientation in (5, 6, 7, 8) else (90, 40))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "I;16"])
def test_pictures_become_rgb(kits, tmp_path, mode):
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    (Image.new(mode, (30, 20)) if mode == "I;16" else picture(30, 20).convert(mode)).save(path)
    assert open_image(path).mode == "RGB"
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n\0\0"])
def test_what_is_no_picture(tmp_path, content):
    (tmp_path / "broken.jpg").write_bytes(content)
    for read in (open_image, image_size):
        with pytest.raises((OSError, ValueError)):
            read(tmp_path / "broken.jpg")


@pytest.mark.parametrize("written_by_template", [False, True])
def test_the_first_token_stands_there_once(kit, written_by_template):
    processor = kit.processor
    if written_by_template:
        processor = with_template(kit, "{{ bos_token }}" + processor.chat_template)
    turns = conversation("<image>\nWhat?", "That.")
    sample = Encoder(processor).encode(turns, [picture(60, 60)])
    tokens = kit.processor.tokenizer.convert_ids_to_tokens(sample["input_ids"])
    if BOS[kit.family] is not None:
        assert tokens[0] == BOS[kit.family]
        assert tokens.count(BOS[kit.family]) == 1
    assert Encoder(processor).count_tokens(turns, [(60, 60)]) == len(sample["labels"])
    assert supervised_text(kit, sample) == SAID[kit.family].format("That.")


def test_a_template_that_drops_the_system_turn(kit):
    dropping = "{%- set messages = messages | rejectattr('role', 'equalto', 'system') | list -%}"
    encoder = Encoder(with_template(kit, dropping + kit.processor.chat_template))
    turns, sizes = CONVERSATIONS["system"]
    with pytest.raises(InputError, match=r"here\.json, sample 7: .* has no system turn; remove the sample's"):
        encoder.encode(turns, pictures(*sizes), "here.json, sample 7")
    encoder.encode(turns[1:], pictures(*sizes))


def test_a_template_that_refuses_the_system_turn(kit):
    """As Gemma 2's and Mistral's do: the reason is the template's."""
    refusing = "{%- if messages[0].role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}"
    encoder = Encoder(with_template(kit, refusing + kit.processor.chat_template))
    with pytest.raises(InputError, match=r"sample 7: .*template refuses it \(no system role\)"):
        encoder.count_tokens(CONVERSATIONS["system"][0], [(70, 70)], "here.json, sample 7")


def test_a_template_that_looks_at_all_turns(kit):
    """As one that numbers them: what is supervised is what the template says behind all turns before it."""
    numbered = "{%- for message in messages -%}{{ loop.index }}|{{ message.role }}: {{ message.content[0].text }};"
    numbered += "{%- endfor -%}{%- if add_generation_prompt -%}{{ messages | length + 1 }}|assistant: {%- endif -%}"
    turns = conversation("a", "b", "c", "d", "e", "f")
    text, spans = Encoder(with_template(kit, numbered)).render(turns)
    assert [text[start:end] for start, end in spans] == [" b;", " d;", " f;"]


@pytest.mark.parametrize("system", [None, "2"])
def test_long_conversations_cost_what_their_turns_cost(kit, system, monkeypatch):
    """The template writes no turn more often than a fixed number of times; the answers are found, though all alike."""
    written = []
    turns = conversation(*["2", " 2 "] * 60, system=system)
    encoder = Encoder(kit.processor)
    apply = encoder.processor.apply_chat_template
    monkeypatch.setattr(
        encoder.processor,
        "apply_chat_template",
        lambda turns, **more: written.append(len(turns)) or apply(turns, **more),
    )
    text, spans = encoder.render(turns)
    assert sum(written) < 12 * len(turns)
    said = SAID[kit.family].format(" 2 ")
    trims = kit.family == "llava_next_llama3"
    assert [text[start:end] for start, end in spans] == [said.replace(" 2 ", "2") if trims else said] * 60
    assert [end for _, end in spans] == sorted({end for _, end in spans})
    for place in (0, 30, 59):
        first = turns[: 2 * place + 2 + (system is not None)]
        assert spans[place][0] == len(apply(encoder_turns(first[:-1]), add_generation_prompt=True, tokenize=False))


def encoder_turns(turns: list[dict]) -> list[dict]:
    return [{"role": turn["role"], "content": typed_parts(turn["content"])} for turn in turns]


def llama_factory_pieces(family: str, turns: list[dict]) -> list[tuple[str, bool]]:
    """(text, whether it is learnt) of LLaMA-Factory 0.9.5's templates `qwen2_vl` and `gemma3`, images as marks.

    After format_user, format_assistant and format_system in its src/llamafactory/data/template.py: the answer's slot
    ends with the end token and a line break, all of it a target.
    """
    start, end, names = {
        "qwen2_5_vl": ("<|im_start|>", "<|im_end|>", {"user": "user", "assistant": "assistant"}),
        "gemma3": ("<start_of_turn>", "<end_of_turn>", {"user": "user", "assistant": "model"}),
    }[family]
    system = turns[0]["content"] if turns[0]["role"] == "system" else None
    pieces = []
    if family == "qwen2_5_vl":
        pieces.append((f"{start}system\n{system or 'You are a helpful assistant.'}{end}\n", False))
    for turn in turns[system is not None :]:
        if turn["role"] == "user":
            lead = f"{system}\n\n" if family == "gemma3" and system and len(pieces) == 0 else ""
            asked = f"{start}user\n{lead}{turn['content']}{end}\n{start}{names['assistant']}\n"
            pieces.append((asked, False))
        else:
            pieces.append((f"{turn['content']}{end}\n", True))
    return pieces


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
@pytest.mark.parametrize("name", [*CONVERSATIONS, "spaces"])
def test_llama_factorys_text(kits, family, name):
    """Token by token, images in place of their marks; also under a checkpoint's template that trims."""
    spaces = (conversation(" <image>\n\n What? ", " It is \n", "\nSure?", "Yes"), [(60, 60)])
    turns, sizes = spaces if name == "spaces" else CONVERSATIONS[name]
    kit = kits[family]
    tokenizer = kit.processor.tokenizer
    frame = {
        "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"),
        "gemma3": ("\n\n<start_of_image>", "<end_of_image>\n\n"),
    }[family]
    encoder = Encoder(with_template(kit, "{{ messages | length }} turns"), llama_factory=True)
    sample = encoder.encode(turns, pictures(*sizes))
    counts = iter(
        [int((kit.inputs((image, "x"))["input_ids"] == kit.image_token_id).sum()) for image in pictures(*sizes)]
    )
    ids, labels = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id], []
    labels += [IGNORED] * len(ids)
    for text, learnt in llama_factory_pieces(family, turns):
        while "<image>" in text:
            image = tokenizer.convert_ids_to_tokens(kit.image_token_id)
            text = text.replace("<image>", frame[0] + image * next(counts) + frame[1], 1)
        new = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += new
        labels += new if learnt else [IGNORED] * len(new)
    assert sample["input_ids"].tolist() == ids
    assert sample["labels"].tolist() == labels
    assert encoder.count_tokens(turns, [(height, width) for width, height in sizes]) == len(ids)


def test_llama_factorys_text_is_for_two_families(kits):
    for family in set(kits) - {"qwen2_5_vl", "gemma3"}:
        with pytest.raises(InputError, match="template: llama_factory is for Qwen2.5-VL's and Gemma3's conversations"):
            Encoder(kits[family].processor, llama_factory=True)
    with pytest.raises(InputError, match="template: llama_factory"):
        Encoder(kits["gemma3"].processor, plain=True, llama_factory=True)


def test_a_template_that_rewrites_earlier_turns(kit):
    """Then the place of the first answer cannot be known."""
    encoder = Encoder(with_template(kit, "{{ messages | length }} turns: " + kit.processor.chat_template))
    with pytest.raises(InputError, match="sample 7: the chat template does not keep turn 2 as it is"):
        encoder.encode(conversation("a", "b", "c", "d"), [], "sample 7")


def test_nothing_supervised(kit):
    with pytest.raises(InputError, match="sample 7: no token is supervised"):
        Encoder(kit.processor).encode(conversation("Is anybody there?"), [], "sample 7")


def test_prompt_of_pretraining(kit):
    """Image, caption, line break; the user's words and roles are left out."""
    turns = conversation("Describe it.\n<image>", "A red cat")
    encoder, images = Encoder(kit.processor, plain=True), pictures((80, 60))
    sample = encoder.encode(turns, images)
    assert supervised_text(kit, sample) == "A red cat\n"
    assert (sample["labels"] != IGNORED).int().diff().abs().sum() == 1  # from some place to the end
    text = kit.processor.tokenizer.decode(sample["input_ids"])
    frame = {
        "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"),
        "gemma3": ("\n\n<start_of_image>", "<end_of_image>\n\n"),
    }
    before, after = frame.get(kit.family, ("", ""))
    image = kit.processor.tokenizer.convert_ids_to_tokens(kit.image_token_id)
    assert text.replace(image, "") == f"{BOS[kit.family] or ''}{before}{after}A red cat\n"
    assert encoder.count_tokens(turns, [(60, 80)]) == len(sample["labels"])


@pytest.mark.parametrize(
    "turns",
    [
        conversation("No image", "at all"),
        conversation("<image>\n<image>", "Two"),
        conversation("<image>", "a", "b", "c"),
    ],
)
def test_pretraining_takes_captions_only(kit, turns):
    with pytest.raises(InputError, match="sample 7: pre-training takes one image and one caption"):
        Encoder(kit.processor, plain=True).count_tokens(turns, [(60, 60)] * 2, "sample 7")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<image>\nWhat?", ["image", "What?"]),
        ("What?\n<image>", ["What?", "image"]),
        ("<image>", ["image"]),
        ("<image>\n<image>\nBoth?", ["image", "image", "Both?"]),
        ("<image> <image>", ["image", "image"]),
        ("In <image> and <image>, who?", ["In ", "image", " and ", "image", ", who?"]),
        ("\ncode\n", ["\ncode\n"]),
        (" ", [" "]),
        ("", [""]),
    ],
)
def test_parts(content, expected):
    assert [part.get("text", "image") for part in typed_parts(content)] == expected


def test_the_blank_is_an_image_and_nothing_else(kit):
    blank = Encoder(kit.processor).blank()
    assert (blank["labels"] == IGNORED).all()
    assert len(blank["input_ids"]) == len(blank["labels"]) < 40
    images = int((blank["input_ids"] == kit.image_token_id).sum())
    assert images > 0
    assert BOS[kit.family] not in kit.processor.tokenizer.convert_ids_to_tokens(blank["input_ids"])
    if kit.family in ("llava", "llava_next_mistral", "llava_next_llama3"):
        assert images == len(blank["input_ids"])
