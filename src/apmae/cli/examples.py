"""The text under each command's help: a command line to copy, and what to do next."""

EXAMPLES = {
    "demo": (
        "apmae demo --out demo-study",
        "Takes a minute or two, fetches nothing; then open demo-study/report/index.html in a browser.",
    ),
    "run": (
        "apmae run study.yaml",
        "A file to start from: apmae recipes nano > study.yaml. After a kill or a change run it again; what is "
        "complete and made from the same inputs and settings is reused.",
    ),
    "recipes": ("apmae recipes nano > study.yaml", "Change what you like in the file, then: apmae run study.yaml"),
    "prompts": (
        "apmae prompts src/ --language java --per-task 100 --lm MODEL --out prompts.parquet",
        "To see some before anything is written: apmae prompts src/ --preview. Fields of your own prompts: apmae "
        "prompts --schema, and docs/prompts.md. Next: apmae encode.",
    ),
    "train": (
        "apmae train --lm MODEL --prompts prompts.parquet --recipe nano --out encoder/",
        "Sizes and what they cost: apmae recipes. Next: apmae encode --encoder encoder/.",
    ),
    "evaluate": (
        "apmae evaluate --lm A --lm B --encoder X --encoder Y --prompts held-out.parquet --out evaluation/",
        "Prompts that no encoder saw: apmae prompts ... --set split=held_out.",
    ),
    "encode": (
        "apmae encode --lm MODEL --encoder encoder/ --prompts prompts.parquet --out study/embeddings/",
        "The model has to fit into memory; --dtype bfloat16 halves its size. Next: apmae cluster.",
    ),
    "dimensions": (
        "apmae dimensions study/embeddings/ --out study/dimensions.png --dimensions 2,3,4,6,8",
        "With 20000 patterns under a minute for each number of dimensions and seed; --points 5000 is quicker. Next: "
        "apmae cluster --set dimensions=4.",
    ),
    "cluster": (
        "apmae cluster study/embeddings/ --out study/atlas/",
        "Few or no clusters: --set min_cluster_size=10, or encode more prompts. Next: apmae report, apmae tag --atlas.",
    ),
    "locations": (
        "apmae locations study/",
        "Pattern locations by task and outcome beside what chance gives. Then apmae report shows them too. Languages "
        "side by side: apmae locations java-tags/ python-tags/ --out DIR, of what apmae tag MODEL --prompts made.",
    ),
    "answers": (
        "apmae answers --lm MODEL --prompts study/prompts.parquet --out study/answers/",
        "Of an encoded study take its prompts and window (--set context=256). Next: apmae predict study/.",
    ),
    "predict": (
        "apmae predict study/ --json prediction.json",
        "Will an answer be right? Baselines without attention, then what heads add, with intervals. Then for one line: "
        "apmae predict MODEL FILE.java --line 12 --column 18 --study study/ --risk 0.1",
    ),
    "circuit": (
        "apmae circuit --lm MODEL --prompts pairs.parquet --out circuit/ --exact all",
        "Pairs: apmae prompts circuit:induction --lm MODEL --per-task 50 --out pairs.parquet. Without --exact all only "
        "a shortlist is patched, which takes about a quarter of the time.",
    ),
    "ablate": (
        "apmae ablate study/ --doses 1,4,16 --json ablation.json",
        "What heads do, with random sets beside them. The number of forwards is said first; --heads 3.5,4.0 and "
        "--doses none take fewer. Without a study: apmae ablate --lm MODEL --prompts PROMPTS --out DIR",
    ),
    "prune": (
        "apmae prune study/ --save pruned/ --remove 12 --by gradient",
        "Which heads the model can do without, by seven rankings beside random heads. --ranking gradient --ranking "
        "attribution take one backward for each prompt, exact one forward for each head.",
    ),
    "report": ("apmae report study/", "Writes study/report/index.html, one file to open in a browser, and its tables."),
    "top": (
        "apmae top study/ --by induction --head 3.5 --lm MODEL",
        "The strongest prompts of heads beside the value's distribution. Without --head all heads; without --lm only "
        "what the study knows, in seconds.",
    ),
    "similar": (
        "apmae similar study/:3.5 --in other-study/ --picture similar.png",
        "Which heads of another model do what this one does; beside each distance stands what is usual. A pattern from "
        "elsewhere: apmae similar patterns.npy --in study/",
    ),
    "tag": (
        "apmae tag bundled FILE.java --line 12 --json tags.json --html tags.html",
        "The bundled encoder and atlas know the bundled model; for another one give --encoder and --atlas of your own. "
        "What each head does over a corpus: apmae tag MODEL --prompts prompts.parquet --out tags/",
    ),
    "show": (
        "apmae show MODEL --file FILE.java --line 12 --head 3.5 --out head.png",
        "Without --head: all heads, small. To read standard input: --prompt -",
    ),
    "push": (
        "apmae push encoder/ NAME/REPOSITORY --license apache-2.0",
        "To see what would be uploaded, without a token: --dry-run.",
    ),
}
"""By command: a line to copy, and advice."""

ABOUT = (
    "A mistake is reported in one line on standard error, with exit code 2. Files are written before anything is "
    "printed, so that output may be cut short: apmae tag ... | head -3 exits with 0. All settings: docs/pipeline.md."
)
"""Under the help of ``apmae`` itself."""
