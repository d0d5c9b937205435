"""Where the files of benchmarks officially come from; nothing here is ever fetched."""

_LLAVA = (
    "LLaVA's eval.zip, "
    "https://drive.google.com/file/d/1atZSBBrAX54yYpxtVVW33zFvcnaHeFPy (docs/Evaluation.md)"
)
_COCO = "http://images.cocodataset.org"
_VQA = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
_VIZWIZ = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_TEXTVQA = "https://dl.fbaipublicfiles.com/textvqa"
_MMBENCH = "https://download.openmmlab.com/mmclassification/datasets/mmbench"
_WILD = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
_MMVET = "https://github.com/yuweihao/MM-Vet"
_REVIEWS = "an earlier run, reviews.jsonl in the store, or the official script"
_SQA = "https://github.com/lupantech/ScienceQA"

_VAL2014 = {
    "questions": f"{_VQA}/v2_Questions_Val_mscoco.zip",
    "annotations": f"{_VQA}/v2_Annotations_Val_mscoco.zip",
    "only": f"{_COCO}/annotations/annotations_trainval2017.zip",
    "images": f"{_COCO}/zips/val2014.zip",
}
_TEXTVQA_OWNERS = {
    "annotations": f"{_TEXTVQA}/data/TextVQA_0.5.1_val.json",
    "ocr": f"{_TEXTVQA}/data/TextVQA_Rosetta_OCR_v0.2_val.json",
    "images": f"{_TEXTVQA}/images/train_val_images.zip",
}

SOURCES: dict[str, dict[str, str]] = {  # by name of the benchmark and field
    "vqav2": {
        "questions": _LLAVA,
        "everything": _LLAVA,
        "images": f"{_COCO}/zips/test2015.zip",
    },
    "vqav2_val": _VAL2014,
    "gqa": {
        "questions": _LLAVA,
        "annotations": "questions1.2.zip of https://cs.stanford.edu/people/dorarad/gqa/download.html",
        "images": "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
    },
    "vizwiz": {
        "questions": f"{_LLAVA}, or test.json of {_VIZWIZ}/vqa_data/Annotations.zip",
        "images": f"{_VIZWIZ}/images/test.zip",
    },
    "vizwiz_val": {
        "questions": f"val.json of {_VIZWIZ}/vqa_data/Annotations.zip",
        "annotations": f"val.json of {_VIZWIZ}/vqa_data/Annotations.zip",
        "images": f"{_VIZWIZ}/images/val.zip",
    },
    "sqa": {
        "questions": _LLAVA,
        "annotations": f"data/scienceqa/problems.json of {_SQA}",
        "splits": f"data/scienceqa/pid_splits.json of {_SQA}",
        "images": f"test.zip, as told at {_SQA}",
    },
    "textvqa": {"questions": _LLAVA, **_TEXTVQA_OWNERS},
    "textvqa_noocr": {"questions": _TEXTVQA_OWNERS["annotations"], **_TEXTVQA_OWNERS},
    "pope": {
        "questions": _LLAVA,
        "annotations": "https://github.com/AoiDragon/POPE/tree/"
        "e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco, that very commit",
        "images": f"{_COCO}/zips/val2014.zip",
    },
    "mme": {
        "questions": _LLAVA,
        "annotations": "eval_tool.zip of https://github.com/BradyFU/"
        "Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
        "images": "MME's authors, as told at https://github.com/BradyFU/"
        "Awesome-Multimodal-Large-Language-Models/tree/Evaluation",
    },
    "mmbench": dict.fromkeys(("questions", "annotations"), f"{_MMBENCH}/mmbench_dev_20230712.tsv"),
    "mmbench_cn": dict.fromkeys(
        ("questions", "annotations"), f"{_MMBENCH}/mmbench_dev_cn_20231003.tsv"
    ),
    "llava_wild": {
        **dict.fromkeys(("questions", "annotations", "contexts", "images"), _WILD),
        "rules": "llava/eval/table/rule.json of https://github.com/haotian-liu/LLaVA",
        "reviews": _REVIEWS,
    },
    "mmvet": {
        "questions": _LLAVA,
        **dict.fromkeys(("annotations", "images"), f"mm-vet.zip of {_MMVET}/releases"),
        "prompt": f"mm-vet_evaluator.py of {_MMVET}",
        "reviews": _REVIEWS,
    },
}
