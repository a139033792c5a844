"""The prompts of P3 against the reference lists, and names against seqio's rule."""

import json
import re
from collections import Counter

import pytest

from hypert5_jax.preparation.p3.catalogue import clean_name, read_prompts

PROMPTS = read_prompts()


def of(mixture):
    return [prompt for prompt in PROMPTS if mixture in prompt.uses]


def test_the_numbers_of_the_paper_and_of_t0():
    train = of("p3_train")
    assert len(train) == len({prompt.name for prompt in train}) == 241
    assert sum(prompt.rate for prompt in train) == 11_175_536
    assert sum(prompt.train for prompt in train) == 84_806_761
    assert len({(prompt.dataset, prompt.subset) for prompt in train}) == 33
    assert not any(prompt.held_out for prompt in train)
    evaluated = Counter(prompt.group for prompt in of("p3_eval"))
    assert evaluated == {
        **{f"anli_r{i}": 15 for i in (1, 2, 3)},
        "hellaswag": 4,
        "cb": 15,
        "copa": 12,
        "rte": 10,
        "wic": 10,
        "wsc": 10,
        "winogrande": 5,
    }
    peft = of("p3_peft")
    assert len(peft) == 8 and len({prompt.group for prompt in peft}) == 8
    (debiased,) = [prompt for prompt in peft if "p3_eval" not in prompt.uses]
    assert debiased.name == "winogrande_winogrande_debiased_Replace"
    assert (debiased.train, debiased.validation) == (9248, 1267)


def test_nine_names_are_printed_wrongly():
    wrong = {
        prompt.printed: prompt.name
        for prompt in PROMPTS
        if prompt.printed != prompt.name
    }
    assert len(wrong) == 9
    assert sum(printed.startswith("samsun_") for printed in wrong) == 7
    true = "kilt_tasks_hotpotqa_straighforward_qa"
    assert wrong["kilt_tasks_hotpotqa_straightforward_qa"] == true
    true = "cos_e_v1.11_description_question_option_id"
    assert wrong["cos_e_v1.11_generate_question_option_id"] == true


def test_names_are_those_of_data_set_subset_and_template():
    for prompt in PROMPTS:
        assert re.fullmatch(r"[\w\d.:_#]+", prompt.name)
        parts = [prompt.folder, prompt.template, prompt.anli_round]
        assert "_".join(filter(None, parts)) == prompt.name
        assert prompt.splits == ("train", "validation")[: 1 + prompt.held_out]
    assert clean_name("super_glue_copa_…which may be caused by") == (
        "super_glue_copa__which_may_be_caused_by"
    )
    anli = next(prompt for prompt in PROMPTS if prompt.name == "anli_GPT_3_style_r2")
    assert (anli.raw_split("train"), anli.raw_split("validation")) == (
        "train_r2",
        "dev_r2",
    )


def test_the_training_list_is_the_reference_list(shared):
    printed = (shared / "reference" / "p3_train_prompts.txt").read_text().split()
    assert [prompt.printed for prompt in of("p3_train")] == printed
    listed = json.loads(
        (shared / "reference" / "p3_train_prompts_resolved.json").read_text()
    )["prompts"]
    for prompt, entry in zip(of("p3_train"), listed, strict=True):
        assert prompt.name == entry["p3_name"]
        assert prompt.dataset == entry["hf_dataset"]
        assert prompt.subset == (entry["hf_subset"] or "")
        assert clean_name(entry["template"]) == prompt.template
        assert prompt.train == entry["p3_num_examples"]["train"]
        assert prompt.rate == entry["t0_mixing_rate"]
        assert (prompt.options != 0) == entry["has_answer_choices"]
        # T0's rule, once more from its parts.
        size, templates = (
            entry["t0_dataset_train_size"],
            entry["t0_templates_in_dataset"],
        )
        assert prompt.rate == (size if size <= 500_000 else 500_000 // templates)


@pytest.mark.parametrize(
    "name", ["ANLI", "CB", "COPA", "HellaSwag", "WSC", "Winogrande"]
)
def test_the_evaluation_list_is_the_reference_list(shared, name):
    entry = json.loads((shared / "reference" / "p3_eval_prompts.json").read_text())
    entry = entry["eval"][name]
    rounds = entry.get("rounds", {"": entry})
    ours = {prompt.name: prompt for prompt in of("p3_eval")}
    for anli_round, fields in rounds.items():
        for prompt in map(ours.__getitem__, fields["prompts"]):
            counts = fields["counts"][prompt.name]["num_examples"]
            assert (prompt.train, prompt.validation) == (
                counts["train"],
                counts["validation"],
            )
            assert prompt.options == entry["num_choices"]
            assert (prompt.dataset, prompt.subset) == (
                entry["hf_dataset"],
                entry["hf_subset"] or "",
            )
            assert prompt.anli_round == anli_round
    assert [prompt.name for prompt in of("p3_peft")] != []
