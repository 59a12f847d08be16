"""The names of datasets, and which functions of lhotse download and prepare them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The functions of one dataset, by name; looked up as attributes when they are needed.

    lhotse lists some of them in no ``__all__``, so a function is looked for in ``lhotse.recipes``
    and then in ``lhotse.recipes.<module>``.
    """

    module: str
    prepare: str
    download: str | None
    corpus_argument: str | None = "corpus_dir"
    """The argument of ``prepare`` that takes the corpus's folder; None: `process_params` has it."""
    target_argument: str = "target_dir"
    """The argument of ``download`` that takes the folder to download into."""


# fmt: off
_USUAL = (
    "adept", "aishell", "aishell3", "aishell4", "ali_meeting", "atcosim", "baker_zh",
    "but_reverb_db", "bvcc", "chime6", "cmu_arctic", "cmu_indic", "commonvoice", "daily_talk",
    "dipco", "earnings21", "earnings22", "ears", "edacc", "fleurs", "gigast", "grid", "hifitts",
    "himia", "libricss", "librispeech", "libritts", "ljspeech", "magicdata", "mdcc", "medical",
    "mobvoihotwords", "mtedx", "musan", "primewords", "reazonspeech", "rir_noise", "speechcommands",
    "spgispeech", "stcmds", "thchs_30", "this_american_life", "timit", "uwb_atcc", "vctk",
    "voxpopuli", "xbmu_amdo31", "yesno",
)
# fmt: on

RECIPES: dict[str, Recipe] = {
    **{name: Recipe(name, f"prepare_{name}", f"download_{name}") for name in _USUAL},
    "ami": Recipe("ami", "prepare_ami", "download_ami", "data_dir"),
    "heroico": Recipe("heroico", "prepare_heroico", "download_heroico", "speech_dir"),
    "icsi": Recipe("icsi", "prepare_icsi", "download_icsi", "audio_dir"),
    "librimix": Recipe("librimix", "prepare_librimix", "download_librimix", None),
    "tedlium": Recipe("tedlium", "prepare_tedlium", "download_tedlium", "tedlium_root"),
    "voxconverse": Recipe(
        "voxconverse", "prepare_voxconverse", "download_voxconverse", target_argument="corpus_dir"
    ),
    # prepared as LibriTTS is; only the download differs
    "librittsr": Recipe("libritts", "prepare_libritts", "download_librittsr"),
    # to be had on request alone
    "nsc": Recipe("nsc", "prepare_nsc", None),
    "peoples_speech": Recipe("peoples_speech", "prepare_peoples_speech", None),
    "voxceleb": Recipe("voxceleb", "prepare_voxceleb", None, "voxceleb1_root"),
    "voxceleb1": Recipe("voxceleb", "prepare_voxceleb", "download_voxceleb1", "voxceleb1_root"),
    "voxceleb2": Recipe("voxceleb", "prepare_voxceleb", "download_voxceleb2", "voxceleb2_root"),
}
