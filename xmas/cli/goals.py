"""The goals that the help page lists; `goal=` accepts any other stage's node too."""

GOALS = {
    "subset": "the chosen rows, as files for a trainer; the default",
    "audit": "what the subset contains, compared with its pool",
    "exam": "what selectors do with copies, noise and length; no target is trained",
    "proxy": "a small model fitted on the pool",
    "target": "the model fitted on the subset",
    "scores": "benchmark scores of targets on the subset and on all rows",
    "table": "every score in the store, with mean and spread",
    "report": "the same and more as one HTML page",
    "dashboard": "the same as a W&B workspace",
    "ratings": "a judge's rating of every row with an image",
    "rescore": "the score of an answers file from elsewhere",
    "submission": "the file for an evaluation server",
    "export": "the target as a Hugging Face folder",
    "results": "what the store has",
    "verify": "whether its files are as they were written",
    "clean": "remove what no kept score needs, after showing it",
    "doctor": "what is wrong or missing, before anything runs",
    "estimate": "time, memory and disk, before anything runs",
}
