"""Learning, not only running: a tiny model learns real samples by heart, by full tuning and by LoRA."""

import json

from data.instruction_formats import typed_parts
from data.instructions import read_samples
from models import load_model
from tests.training import PHOTOS, SAMPLES, losses, train_here
from train.encode import open_image

COUNT = 8
COMMON = {"global_batch_size": COUNT, "per_device_batch_size": COUNT, "learning_rate": 0.01, "warmup_ratio": 0.05}


def test_a_tiny_model_learns_samples_by_heart(tiny_folders, tmp_path):
    """Some samples by full tuning; then, from what came out, others by LoRA. Then it answers as it was taught."""
    samples = json.loads((SAMPLES / "instructions.json").read_text())
    captions = json.loads((SAMPLES / "captions.json").read_text())
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps(samples[:COUNT]))
    other.write_text(json.dumps(captions[:3] + samples[3 - COUNT :]))
    settings = COMMON | {"position_balance": True, "save_steps": 1000}
    base = tiny_folders["gemma3"]
    full = train_here(tmp_path / "full", stage="finetune", model_path=base, data=one, max_steps=160, **settings)
    assert losses(full)[-1] < 0.05
    lora = {"lora_rank": 32, "lora_alpha": 64, "projector": "full"}
    run = train_here(tmp_path / "lora", model_path=full, data=other, max_steps=200, **lora, **settings)
    assert losses(run)[-1] < 0.05
    model, processor = load_model(run, dtype="float32")
    for sample in list(read_samples(SAMPLES / "captions.json"))[:3]:
        question, answer = sample["messages"]
        turns = [{"role": "user", "content": typed_parts(question["content"])}]
        text = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        inputs = processor(text=text, images=[open_image(PHOTOS / sample["images"][0])], return_tensors="pt")
        reply = model.generate(**inputs, max_new_tokens=100, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(reply, skip_special_tokens=True) == answer["content"]
