"""How the original projects evaluate, as data: how answers come about, which metric a
task has, and how tasks are averaged.

    name              answers                         metric of a task       average
    p3                option of the largest sum       accuracy               8 columns
    metaicl           greedy text                     Macro-F1 or ROUGE-L    tasks
    metaicl_official  option of the largest mean      Macro-F1 or accuracy   tasks
    sni               greedy text, 128 tokens         ROUGE-L                instances
    options           option of the largest sum       accuracy               groups

Sources: T0's evaluation (bigscience-workshop/t-zero) and t5's rank_classification for
p3; MetaICL's own code for metaicl_official, the paper's section 5.2 for metaicl;
Tk-Instruct's compute_metrics.py for sni. `options` is p3's for tasks that are not P3's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hypert5_jax.core.errors import UserError

SUM, MEAN, GENERATE = "sum", "mean", "generate"
COLUMNS, TASKS, INSTANCES = "columns", "tasks", "instances"


@dataclass(frozen=True)
class Column:
    """A column of a table: the mean over the groups it joins.

    Attributes:
      name: as printed.
      groups: `group` of the tasks, each averaged over its tasks (prompts) first.
      stand_ins: groups of the same name in the paper's tables that are not part of this
        mean, such as the other Winogrande of its single-task tuning.
    """

    name: str
    groups: tuple[str, ...]
    stand_ins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Protocol:
    """One way of evaluating.

    Attributes:
      name: what it is asked for by.
      answer: "sum" or "mean", the ranking of given options by log-probability; or
        "generate".
      metrics: computed for every task (names of evaluation/metrics.py).
      metric_of: {group: the metric that counts}; "" stands for all other groups.
      average: "columns", "tasks" or "instances".
      columns: for that average; none makes a column of every group there is.
      max_new_tokens: most tokens of a generated answer, EOS included.
    """

    name: str
    answer: str
    metrics: tuple[str, ...]
    metric_of: Mapping[str, str]
    average: str
    columns: tuple[Column, ...] = field(default=())
    max_new_tokens: int = 128

    def metric(self, group: str) -> str:
        """The metric that counts for a task of this group."""
        return self.metric_of.get(group_key(group), self.metric_of[""])

    def column(self, group: str) -> str | None:
        """Name of the column that a task of this group stands in, if there is one."""
        key = group_key(group)
        for column in self.columns:
            if key in (*column.groups, *column.stand_ins):
                return column.name
        return None


def group_key(group: str) -> str:
    """A group's name for comparison: "Textual Entailment" is "textual_entailment"."""
    return "_".join(group.lower().split())


# P3's eight columns in the paper's order (Table 1); ANLI's three rounds are one.
P3_COLUMNS = (
    Column("ANLI", ("anli_r1", "anli_r2", "anli_r3")),
    Column("HSwag", ("hellaswag",)),
    Column("CB", ("cb",)),
    Column("COPA", ("copa",)),
    Column("RTE", ("rte",)),
    Column("WiC", ("wic",)),
    Column("WSC", ("wsc",)),
    Column("WGD", ("winogrande",), ("winogrande_debiased",)),
)

# Tk-Instruct reports exact match for the six categories of short fixed answers.
SNI_EXACT = (
    "textual_entailment",
    "cause_effect_classification",
    "coreference_resolution",
    "dialogue_act_recognition",
    "answerability_classification",
    "word_analogy",
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("p3", SUM, ("accuracy",), {"": "accuracy"}, COLUMNS, P3_COLUMNS),
        Protocol(
            "metaicl",
            GENERATE,
            ("macro_f1", "rouge_l", "exact_match"),
            {"classification": "macro_f1", "": "rouge_l"},
            TASKS,
        ),
        Protocol(
            "metaicl_official",
            MEAN,
            ("macro_f1", "accuracy"),
            {"classification": "macro_f1", "": "accuracy"},
            TASKS,
        ),
        Protocol(
            "sni",
            GENERATE,
            ("rouge_l", "sni_exact_match"),
            {"": "rouge_l", **dict.fromkeys(SNI_EXACT, "sni_exact_match")},
            INSTANCES,
        ),
        Protocol("options", SUM, ("accuracy",), {"": "accuracy"}, COLUMNS),
    )
}


def find(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
      UserError: there is none.
    """
    if name not in PROTOCOLS:
        raise UserError(f"protocol is {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
