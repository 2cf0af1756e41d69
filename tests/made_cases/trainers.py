"""Rows of the reference implementation and of other trainers."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from made_cases.basics import FOUR, OWN, SPACE, TWELVE, Case, Command, encode, save_photos, write_lines


def write_reference_rows(out: Path) -> None:
    """Write Parquet as EasyR1 reads it: a list of one image, a problem, an answer. Some have two images or none."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"images": {"feature": {"_type": "Image"}, "_type": "Sequence"}}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in ("problem", "answer")}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(
        [("images", pa.list_(image)), ("problem", pa.string()), ("answer", pa.string())], metadata=metadata
    )
    (out / "data").mkdir()
    for place, split in enumerate(("train", "test")):
        rows = []
        for number in range(10):
            images = [{"bytes": encode(100 * place + number, FOUR[number % 4]), "path": f"{number}.jpg"}]
            images = {8: images * 2, 9: []}.get(number, images)
            rows.append({"images": images, "problem": "<image>Which?", "answer": FOUR[number % 4]})
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), out / "data" / f"{split}-00000-of-00001.parquet")


REFERENCE = Case(
    "rows of the reference implementation",
    write_reference_rows,
    (
        Command(
            "--dataset own --hub_id {out} --label_space emotion6 --image_column images --emotion_column answer "
            "--sampling natural",
            {"test": 8, "train": 8},
            "2 x holds 2 images.*2 x holds no image",
        ),
        Command("--dataset own --hub_id {out} --label_space emotion6", {"test": 8, "train": 8}, "from column 'images'"),
        Command(OWN, {"test": 8, "train": 8}),
        Command(OWN + "/data/test-00000-of-00001.parquet --train 0 --test 8", {"test": 8}, "The only split"),
    ),
)


def write_conversations(out: Path) -> None:
    """Write rows of TRL, ms-swift, LLaVA and LLaMA-Factory."""
    rows = save_photos(out, name="pictures/{number}.jpg")
    wrapped = ("{}", "<answer>{}</answer>", "\\boxed{{{}}}", "The emotion is {}.")
    said = [wrapped[number // 3].format(emotion) for number, (_, emotion) in enumerate(rows)]
    user = {"role": "user", "content": "<image>Which emotion?"}
    turns = [[user, {"role": "assistant", "content": answer}] for answer in said]
    write_lines(out / "trl.jsonl", [{"prompt": [user], "images": [p], "solution": e} for p, e in rows])
    write_lines(
        out / "completion.jsonl",
        [
            {"prompt": [user], "completion": [turn[1]], "image": {"path": p}}
            for (p, _), turn in zip(rows, turns, strict=True)
        ],
    )
    write_lines(
        out / "swift.jsonl", [{"messages": turn, "images": [p]} for (p, _), turn in zip(rows, turns, strict=True)]
    )
    content = [{"type": "image", "image": rows[0][0]}, {"type": "text", "text": "Which?"}]
    write_lines(
        out / "parts.jsonl",
        [
            {"messages": [{"role": "user", "content": [{**content[0], "image": p}, content[1]]}, turn[1]]}
            for (p, _), turn in zip(rows, turns, strict=True)
        ],
    )
    llava = [
        {"id": number, "image": p, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": answer}]}
        for number, ((p, _), answer) in enumerate(zip(rows, said, strict=True))
    ]
    (out / "llava.json").write_text(json.dumps(llava, indent=2))
    missing = [{"messages": turn, "images": [p]} for (p, _), turn in zip(rows, turns, strict=True)]
    missing[0]["images"] = []
    del missing[1]["images"]
    write_lines(out / "missing.jsonl", missing)
    write_lines(
        out / "long.jsonl",
        [{"image": p, "answer": "It shows a dog, and I am not sure that it is joy."} for p, _ in rows],
    )


CONVERSATIONS = Case(
    "rows of other trainers",
    write_conversations,
    (
        *(
            Command(OWN + f"/{name}" + SPACE, TWELVE)
            for name in ("trl.jsonl", "completion.jsonl", "swift.jsonl", "parts.jsonl", "llava.json")
        ),
        Command(OWN + "/swift.jsonl", TWELVE, "assistant's last answer"),
        Command(OWN + "/missing.jsonl" + SPACE, {"test": 2, "train": 8}, "1 x holds no image"),
        Command(OWN + "/long.jsonl" + SPACE, None, "outside the label space"),
        Command(OWN + "/long.jsonl", None, "are sentences"),
    ),
)
