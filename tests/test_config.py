"""Settings: what comes back, what is refused and how, and the ancestor's own files."""
from dataclasses import fields

import pytest
from hypothesis import given, strategies as st

from esrdgan.ancestor import DEAD, RENAMED
from esrdgan.config import check_config, config_text, read_config, write_config
from esrdgan.recipes import RECIPES, recipe_config
from esrdgan.config import LAYERS, Config, ConfigError
from esrdgan.tricks import Tricks


def ini(folder, text):
    path = folder / "my.ini"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_come_back_from_their_files(tmp_path, name):
    config = recipe_config(name)
    write_config(config, tmp_path / "a" / "x.ini")
    again = read_config(tmp_path / "a" / "x.ini")
    assert again == config and again is not config
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.ini"]


def test_every_key_has_a_comment_and_every_trick_a_key():
    lines = config_text(Config()).splitlines()
    keys = [i for i, line in enumerate(lines) if " =" in line and not line.startswith("#")]
    assert len(keys) > 60 and all(lines[i - 1].startswith("# ") and len(lines[i - 1]) > 5 for i in keys)
    names = {lines[i].split(" =")[0] for i in keys}
    assert {f.name for f in fields(Tricks)} <= names


@given(
    rate=st.floats(0, 1e6), steps=st.integers(1, 10**12), noise=st.floats(0, 10), out=st.text("abc %=:#;[]\\/_-é$(){}", max_size=12).map(str.strip),
    layers=st.dictionaries(st.sampled_from(LAYERS["vgg19"]), st.floats(0, 100)), marks=st.lists(st.integers(1, 10**6), unique=True).map(lambda x: tuple(sorted(x))),
    unshuffle=st.booleans())
def test_any_values_come_back(tmp_path_factory, rate, steps, noise, out, layers, marks, unshuffle):
    config = Config()
    config.gan.learning_rate, config.gan.steps, config.tricks.instance_noise, config.run.out = rate, steps, noise, out
    config.features.layers, config.gan.milestones, config.generator.unshuffle, config.generator.scale = layers, marks, unshuffle, 2
    path = tmp_path_factory.mktemp("ini") / "x.ini"
    write_config(config, path)
    assert read_config(path) == config


def test_what_a_file_cannot_hold_is_not_written(tmp_path):
    config = Config()
    for hostile in ("a\n[gan]\nsteps = 5", "ends with a space ", "two\nlines"):
        config.data.hr = hostile
        with pytest.raises(ConfigError):
            write_config(config, tmp_path / "x.ini")
        assert list(tmp_path.iterdir()) == []


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert read_config(ini(tmp_path, "")) == Config()
    assert read_config(ini(tmp_path, "\ufeff[gan]\nsteps = 7\n")).gan.steps == 7


# file, what the line must contain
WRONG = [
    ("[gan]\nstpes = 5", ["[gan] stpes", "did you mean steps?"]),
    ("[gan]\nSteps = 5", ["[gan] Steps", "did you mean steps?"]),
    ("[gan]\nzzz = 5", ["[gan] zzz", "there are steps, "]),
    ("[data]\nscale = 4", ["[data] scale", "scale in [generator]"]),
    ("[run]\nbatch_size = 4", ["[run] batch_size", "batch_size in [data]"]),
    ("[Gan]\nsteps = 5", ["[Gan]", "no such section", "did you mean gan?"]),
    ("[generater]\nscale = 4", ["[generater]", "did you mean generator?"]),
    ("[gan]\nsteps = many", ["[gan] steps is 'many'", "a whole number, 0 or more"]),
    ("[gan]\nsteps = 1e5", ["[gan] steps is '1e5'", "a whole number"]),
    ("[gan]\nsteps = -3", ["[gan] steps is '-3'", "0 or more"]),
    ("[gan]\nsteps =", ["[gan] steps is ''", "a whole number"]),
    ("[gan]\nsteps", ["[gan] steps is ''", "a whole number"]),
    ("[gan]\nlearning_rate = fast", ["[gan] learning_rate is 'fast'", "a number, 0 or more"]),
    ("[gan]\nlearning_rate = nan", ["[gan] learning_rate is 'nan'"]),
    ("[gan]\nlearning_rate = 1e999", ["[gan] learning_rate is '1e999'"]),
    ("[gan]\nlearning_rate = 0,1", ["[gan] learning_rate is '0,1'"]),
    ("[gan]\nschedule = step", ["[gan] schedule is 'step'", "constant, multistep, cosine"]),
    ("[gan]\nschedule = multistep", ["[gan] milestones is ''", "multistep needs one step or more"]),
    ("[gan]\nmilestones = 20, 10", ["[gan] milestones is '20, 10'", "rising"]),
    ("[gan]\nmilestones = a, b", ["[gan] milestones is 'a, b'", "numbers with commas"]),
    ("[gan]\nmilestones = inf", ["[gan] milestones is 'inf'", "numbers with commas"]),
    ("[gan]\ngamma = 2", ["[gan] gamma is '2.0'", "at most 1"]),
    ("[generator]\nscale = 3", ["[generator] scale is '3'", "one of 1, 2, 4, 8"]),
    ("[generator]\nunshuffle = maybe", ["[generator] unshuffle is 'maybe'", "true or false"]),
    ("[generator]\nunshuffle = true", ["[generator] unshuffle is 'true'", "scale 1 and 2, not 4"]),
    ("[generator]\nn_blocks = 0", ["[generator] n_blocks is '0'", "1 or more"]),
    ("[data]\nhold_out = 5\nvalid = here", ["[data] hold_out is '5'", "give 0 where lr or valid is given"]),
    ("[data]\npatch = 126", ["[data] patch is '126'", "multiple of the scale, 4"]),
    ("[data]\npatch = 28", ["[data] patch is '28'", "32 or more"]),
    ("[data]\npatch = 36\n[discriminator]\nkind = unet", ["[data] patch is '36'", "multiple of 8"]),
    ("[discriminator]\nkind = vgg19", ["[discriminator] kind is 'vgg19'", "one of vgg, unet, none"]),
    ("[discriminator]\nkind = none", ["[gan] adversarial_weight is '0.005'", "a kind in [discriminator]"]),
    ("[features]\nnetwork = none", ["[gan] perceptual_weight is '1.0'", "a network in [features]"]),
    ("[features]\nlayers = 35: 1", ["[features] layers is '35: 1.0'", "vgg19 has no layer 35"]),
    ("[features]\nlayers = 34", ["[features] layers is '34'", "layer: weight"]),
    ("[features]\nlayers = 34: nan", ["[features] layers is '34: nan'", "weights 0 or more"]),
    ("[features]\nlayers = 34: -1", ["[features] layers is '34: -1'", "weights 0 or more"]),
    ("[losses]\nadversarial = wgan", ["[losses] adversarial is 'wgan'", "vanilla, saturating"]),
    ("[training]\nbetas = .9", ["[training] betas is '0.9'", "two numbers"]),
    ("[training]\nprecision = fp8", ["[training] precision is 'fp8'", "auto, fp32, bf16, fp16"]),
    ("[tricks]\nflip = .5", ["[tricks] flip is '0.5'", "below 0.5"]),
    ("[tricks]\nema = 1", ["[tricks] ema is '1.0'", "below 1"]),
    ("[tricks]\nsmooth_real = .6\nsmooth_fake = .6", ["[tricks] smooth_real", "sum below 1"]),
    ("[degradation]\npreset = wld", ["[degradation] preset is 'wld'", "one of clean, photo, web, scan, wild"]),
    ("[degradation]\npreset = web\nblur = 3, 1", ["[degradation] blur is '3, 1'", "the smaller first"]),
    ("[degradation]\nkernels = round, star", ["[degradation] kernels is 'round, star'", "round, turned, reshaped, sinc"]),
    ("[second_round]\nchance = often", ["[second_round] chance is 'often'", "a number"]),
    ("[second_round]\nquality = 10, 99", ["[second_round] quality is '10, 99'", "from 1 to 95"]),
    ("[degradation]\npreset = photo\n[data]\nlr = here", ["[data] lr is 'here'", "preset = clean"]),
    ("[run]\nname = ../up", ["[run] name is '../up'", "a folder can have"]),
    ("[run]\nname =", ["[run] name is ''"]),
    ("[run]\ndevice = gpu", ["[run] device is 'gpu'", "cuda"]),
    ("[gan]\nsteps = 0\n[psnr]\nsteps = 0", ["[gan] steps is '0'", "one of the stages"]),
    ("steps = 5", ["not an .ini file", "no section headers"]),
    ("[gan]\nsteps = 5\nsteps = 6", ["not an .ini file", "steps", "already exists"]),
    ("[gan]\n[gan]", ["not an .ini file", "already exists"]),
    ("[gan\nsteps = 5", ["not an .ini file"]),
    ("[gan]\n= 5", ["not an .ini file"]),
    ("[gan]\nsteps\n    5", ["not an .ini file"]),
    ("[DEFAULT]\nnamme = x", ["[DEFAULT] namme", "did you mean name?"]),
    ("[TRAINING]\nniter = soon", ["[TRAINING] niter is 'soon'", "a whole number"]),
    ("[TRAINING]\nniter = 5\n[gan]\nsteps = 5", ["[TRAINING]", "no such section", "did you mean training?"]),
    ("[TRAINNG]\nniter = 5\n[GENERATOR]\nnum_rrdb = 3", ["[TRAINNG]: no such section; did you mean TRAINING?"]),
    ("[GENERATOR]\nnum_rdb_convs = 1", ["[GENERATOR] num_rdb_convs ('1' in the old form) is '0'", "1 or more"]),
    ("[FEATUREEXTRACTOR]\nhigh_level_feat_layer = 35", ["[FEATUREEXTRACTOR] high_level_feat_layer ('35' in the old form) is '35: 1.0'", "no layer 35"]),
    ("[DATASETTRAIN]\nhr_img_size = 30\n[TRAINING]\nniter = 5", ["[DATASETTRAIN] hr_img_size is '30'", "multiple of the scale"]),
]


@pytest.mark.parametrize("text, parts", WRONG, ids=[text.replace("\n", " ") for text, _ in WRONG])
def test_a_wrong_file_gives_one_line(tmp_path, text, parts):
    path = ini(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line and len(line) < 600
    for part in parts:
        assert part in line


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "x.ini").write_bytes(b"[gan]\nsteps = \xff\xfe")
    for path, part in ((tmp_path / "x.ini", "not an .ini file"), (tmp_path / "none.ini", "cannot be read"), (tmp_path, "cannot be read")):
        with pytest.raises(ConfigError, match=part) as caught:
            read_config(path)
        assert "\n" not in str(caught.value)


def test_settings_made_in_python_are_checked_too():
    config = Config()
    config.tricks.flip = .7
    with pytest.raises(ConfigError, match=r"\[tricks\] flip is '0.7'"):
        check_config(config)


NETWORK = """
[GENERATOR]
norm_type = none
act_type = leakyrelu
layer_mode = CNA
num_features = 128
num_rrdb = 12
num_rdb_convs = 5
rdb_res_scaling = 0.2
rrdb_res_scaling = 0.2
in_num_ch = 3
out_num_ch = 3
rdb_growth_chan = 32
hr_kern_size = 3
weight_init_scale = 0.5
lff_kern_size = 3

[DISCRIMINATOR]
norm_type = batch
act_type = leakyrelu
layer_mode = CNA
num_features = 96
in_num_ch = 3
feat_kern_size = 3
weight_init_scale = 1.0

[FEATUREEXTRACTOR]
low_level_feat_layer = -1
high_level_feat_layer = 34

[TRAINING]
resume_training_from_save = True
learning_rate_g = 0.0001
learning_rate_d = 0.0001
adam_weight_decay_g = 0.0
adam_weight_decay_d = 0.0
adam_beta1_g = 0.9
adam_beta1_d = 0.9
multistep_lr = True
multistep_lr_steps = [10000, 20000, 30000, 40000]
lr_gamma = 0.5
gan_type = relativistic
gan_weight = 0.005
d_g_train_ratio = 2
pixel_criterion = l1
pixel_weight = 0.01
feature_criterion = l1
feature_weight = 0.1
use_noisy_labels = False
use_one_sided_label_smoothing = True
use_instance_noise = False
flip_labels = False
niter = 200000
val_period = 1000
save_model_period = 5000
log_period = 10
"""
TOP = """
[DEFAULT]
name = {name}
model = esrdgan
use_tensorboard_logger = True
scale = 4
also_log_to_terminal = True
gpu_id{gpu}
load_model_from_save = True
display_bar = True
is_test = {use}
is_train = {train}

[ENV]
root_path = /somewhere
log_subpath = /log
tensorboard_subpath = /tensorboard_log
runs_subpath = /runs
generator_load_path = {weights}
discriminator_load_path
state_load_path = None
log_folder = /somewhere/log
tensorboard_log_folder =/somewhere/tensorboard_log
status_log_file = /somewhere/log/x.log
this_runs_folder = /somewhere/runs/x
this_runs_tensorboard_log_folder = /somewhere/tensorboard_log/x
train_log_file = /somewhere/runs/x/x.train
"""
SET = """
[{section}]
name = {name}
mode = {mode}
dataroot_hr = {hr}
dataroot_lr = {lr}
n_workers = {workers}
batch_size = {batch}
hr_img_size = {size}
data_aug_gaussian_noise = False
gaussian_stddev = 0.0
data_aug_shuffle = True
data_aug_flip = True
data_aug_rot = True
"""
TRAINING_FORM = (TOP.format(name="LFF3", gpu=" = 0", use=False, train=True, weights="None") + NETWORK
    + SET.format(section="DATASETTRAIN", name="Flickr2K", mode="downsampler", hr="/pictures/HR", lr=None, workers=8, batch=8, size=128)
    + SET.format(section="DATASETVAL", name="Set14", mode="downsampler", hr="/pictures/BSDS100", lr=None, workers=8, batch=1, size=128)
    + SET.format(section="DATASETTEST", name="Set14", mode="hrlr", hr="/pictures/Set14", lr="/pictures/Set14LR", workers=1, batch=1, size=-1))
USE_FORM = (TOP.format(name="ESRDGAN_use", gpu=" ", use=True, train=False, weights="/somewhere/ESRDGAN.pth") + NETWORK
    + SET.format(section="DATASETTEST", name="Set14", mode="lr", hr="/input", lr="/input", workers=1, batch=1, size=-1))


def test_the_ancestors_training_form_is_the_ancestor_recipe(tmp_path):
    config = read_config(ini(tmp_path, TRAINING_FORM))
    assert (config.data.hr, config.data.lr, config.data.valid, config.run.name) == ("/pictures/HR", "", "/pictures/BSDS100", "LFF3")
    published = recipe_config("ancestor")
    published.run.name, published.data.hr, published.data.valid = config.run.name, config.data.hr, config.data.valid
    assert config == published


@pytest.mark.parametrize("form", [TRAINING_FORM, USE_FORM], ids=["training", "use"])
def test_every_key_of_the_ancestor_is_used_or_named(tmp_path, form):
    config = read_config(ini(tmp_path, form))
    section = None
    for line in form.splitlines():
        key = line.partition("=")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif key:
            same = section.lower() == RENAMED.get((section, key), ("",))[0] and RENAMED[section, key][1] == key
            named = [w for w in config.warnings if w.startswith(f"[{section}] {key} is ")]
            assert same or len(named) == 1, (section, key)
    assert all("\n" not in w for w in config.warnings)


def test_the_ancestors_use_form_names_its_weights(tmp_path):
    config = read_config(ini(tmp_path, USE_FORM))
    assert config.generator.start_from == "/somewhere/ESRDGAN.pth" and config.data.hr == ""
    assert "[ENV] generator_load_path is now start_from in [generator]" in config.warnings


def test_the_ancestors_switches(tmp_path):
    on = read_config(ini(tmp_path, "[TRAINING]\nuse_noisy_labels = True\nuse_instance_noise = True\nmultistep_lr = False\nadam_beta1_g = .5\nniter = 9\n"
        "[FEATUREEXTRACTOR]\nlow_level_feat_layer = 2\nhigh_level_feat_layer = 34\n[DATASETTRAIN]\ndata_aug_gaussian_noise = True\ngaussian_stddev = .02\n"
        "[GENERATOR]\nrrdb_chan_increment = 16\n"))
    assert (on.tricks.label_noise, on.tricks.instance_noise, on.gan.schedule, on.training.betas) == (.05, .1, "constant", (.5, .999))
    assert on.features.layers == {2: 1., 34: 1.} and on.tricks.lr_noise == .02 and on.generator.growth == 16 and on.psnr.steps == 0


def test_each_old_key_lives_or_is_dead_never_both():
    assert not set(RENAMED) & set(DEAD)
    known = {f.name: {s.name for s in fields(f.default_factory)} for f in fields(Config) if f.name != "warnings"}
    assert all(new in known[section] for section, new in RENAMED.values())


def test_the_layers_named_are_those_of_the_networks():
    from torchvision import models
    from esrdgan.features import layer_names
    import torch
    with torch.device("meta"):
        assert tuple(layer_names(models.vgg19().features)) == LAYERS["vgg19"]
        assert tuple(layer_names(models.vgg16().features)) == LAYERS["vgg16"]
    assert LAYERS["vgg16"][:7] == LAYERS["edge_vgg16_small"]


def test_a_gan_from_nothing_is_warned_about(tmp_path):
    assert read_config(ini(tmp_path, "[psnr]\nsteps = 5")).warnings == []
    assert "new weights" in read_config(ini(tmp_path, "[psnr]\nsteps = 0")).warnings[0]


def test_a_recipe_of_numbers_reaches_the_loop():
    config = recipe_config("ancestor")
    recipe = config.settings("gan")
    assert (recipe.steps, recipe.perceptual_weight, recipe.tricks.d_steps, recipe.tricks.milestones) == (200_000, .1, 2, (10_000, 20_000, 30_000, 40_000))
    assert recipe_config("esrgan").settings("psnr").adversarial_weight == 0


def test_an_unknown_recipe():
    with pytest.raises(ConfigError, match="did you mean esrgan"):
        recipe_config("ersgan")


@pytest.mark.parametrize("text", ["[" + "x" * 5000 + "]\na = 1\n", "[run]\n" + "x" * 5000 + " = 1\n"])
def test_a_name_without_end_does_not_fill_the_screen(text, tmp_path):
    (tmp_path / "a.ini").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="no such") as refused:
        read_config(tmp_path / "a.ini")
    assert len(str(refused.value)) < 600 + len(str(tmp_path))
