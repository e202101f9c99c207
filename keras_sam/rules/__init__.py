"""The rules: each chooses where the gradients are evaluated. All of them compute by `keras.ops` on lists of tensors."""

import difflib

import keras

from keras_sam.rules.asam import ASAM
from keras_sam.rules.friendly_sam import FriendlySAM
from keras_sam.rules.gsam import GSAM
from keras_sam.rules.looksam import LookSAM
from keras_sam.rules.msam import MSAM
from keras_sam.rules.random_perturbation import RandomPerturbation
from keras_sam.rules.sam import SAM
from keras_sam.rules.step import Step, in_ascent

__all__ = [
    "ASAM",
    "GSAM",
    "MSAM",
    "SAM",
    "FriendlySAM",
    "LookSAM",
    "RandomPerturbation",
    "Step",
    "get",
    "in_ascent",
]

_RULES = (SAM, ASAM, GSAM, FriendlySAM, LookSAM, MSAM, RandomPerturbation)
_BY_NAME = {rule.__name__.lower(): rule for rule in _RULES}


def get(identifier):
    """The rule that `compile(sam=…)` means.

    Args:
        identifier: A rule, the name of one in any case (`"sam"`), a config as `keras.saving.serialize_keras_object`
            makes it (`{"class_name": "SAM", "config": {"rho": 0.1}}`), or `None`.

    Returns:
        The rule, or `None` for `None`.

    Raises:
        ValueError: If it is none of these, or names a rule or an argument that does not exist.

    Example:

    >>> keras_sam.rules.get("sam")
    SAM(rho=0.05)
    """
    if identifier is None or isinstance(identifier, SAM):
        return identifier
    if isinstance(identifier, str):
        identifier = {"class_name": identifier, "config": {}}
    if not isinstance(identifier, dict):
        hint = f" Did you mean `sam={identifier.__name__}()`?" if isinstance(identifier, type) else ""
        raise ValueError(
            f"Received `sam={identifier!r}`; expected a rule such as `keras_sam.SAM(rho=0.05)`, its name or config, "
            f"or `None` for plain Keras.{hint}"
        )
    return _from_config(identifier)


def _from_config(config):
    unknown = set(config) - {"class_name", "config", "module", "registered_name", "build_config", "compile_config"}
    if unknown or "class_name" not in config:
        raise ValueError(
            f"Received `sam={config!r}`; expected a config of the form "
            "{'class_name': 'SAM', 'config': {'rho': 0.05}}, or simply `sam=keras_sam.SAM(rho=0.05)`."
        )
    # A registered rule of somebody else's may have the name of one of ours.
    is_ours = str(config.get("registered_name") or "keras_sam>").startswith("keras_sam>")
    rule = _BY_NAME.get(str(config["class_name"]).lower()) if is_ours else None
    try:
        if rule is not None:
            return rule.from_config(dict(config.get("config") or {}))
        rule = keras.saving.deserialize_keras_object(config)
    except TypeError as error:
        close = difflib.get_close_matches(str(config["class_name"]).lower(), _BY_NAME, 1)
        hint = f" Did you mean {close[0]!r}?" if close and rule is None else ""
        raise ValueError(
            f"Received `sam={config!r}`, which makes no rule ({error}); expected one of the names "
            f"{sorted(_BY_NAME)} with that rule's own arguments.{hint}"
        ) from error
    if not isinstance(rule, SAM):
        raise ValueError(f"Received `sam={config!r}`, which is a {type(rule).__name__}; expected a rule of keras_sam.")
    return rule
