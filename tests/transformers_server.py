"""What plain transformers answers to a chat completion, from a folder that anybody could serve.

Nothing of xmas is used here: model and processor are found by transformers, prompts are made by the
folder's chat template, and images come out of the request's data URIs.
"""

import base64
import io
import threading
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


class TransformersServer:
    """Answers one request at a time, as a `Say` of `fake_judge`."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder)
        self.processor = AutoProcessor.from_pretrained(folder)
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, body: dict[str, Any], before: int = 0) -> str:
        messages, images = [], []
        for message in body["messages"]:
            content = message["content"]
            if isinstance(content, str):
                content = [{"type": "text", "text": content}]
            parts = []
            for part in content:
                if part["type"] == "image_url":
                    head, _, encoded = part["image_url"]["url"].partition(",")
                    assert head.startswith("data:image/")
                    assert head.endswith(";base64")
                    images.append(Image.open(io.BytesIO(base64.b64decode(encoded))))
                    parts.append({"type": "image"})
                else:
                    parts.append(part)
            messages.append({"role": message["role"], "content": parts})
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = self.processor(text=text, images=images or None, return_tensors="pt")
        assert body["temperature"] == 0
        with self._lock:
            tokens = self.model.generate(**inputs, max_new_tokens=body["max_tokens"])
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.decode(new, skip_special_tokens=True)
