# Every target is a thin line over the skeleton-llm command and can be repeated.
DATA ?= synthetic
LLM ?=
RUN ?= $(if $(filter synthetic,$(DATA)),demo,$(DATA))
SEED ?= 0
CONFIG ?=
ARGS ?=
RAW ?=
PYTHON ?= python3
TORCH ?=
# of stage 1 and of stage 2 alone, behind CONFIG
CONFIG1 ?=
CONFIG2 ?=
# of a SLURM job; AFTER is the run folder, or the job, that must have succeeded before
NODES ?=
GPUS ?=
PARTITION ?=
ACCOUNT ?=
TIME ?=
AFTER ?=
DRY_RUN ?=

BIN := .venv/bin
CLI := $(BIN)/skeleton-llm
SETUP := .venv/.ready
# nw_ucla, ntu60_xsub, ...: the overlay in configs/data; its dataset is the name without the protocol
DATASET := $(firstword $(subst _inner, ,$(subst _x, ,$(subst _c, ,$(DATA)))))
RUN_DIR := runs/$(RUN)
OVERLAYS = --config configs/data/$(DATA).yaml $(foreach c,$(CONFIG),--config $(c)) --seed_everything $(SEED) --data.init_args.seed $(SEED)
MODEL = $(if $(LLM),--model.init_args.llm.name $(LLM))
STAGE1 = --config configs/stage1.yaml $(OVERLAYS) $(foreach c,$(CONFIG1),--config $(c)) $(MODEL) \
  --trainer.default_root_dir $(RUN_DIR)/stage1
STAGE2 = --config configs/stage2.yaml $(OVERLAYS) $(foreach c,$(CONFIG2),--config $(c)) $(MODEL) \
  --trainer.default_root_dir $(RUN_DIR)/stage2 --model.init_args.tokenizer $(RUN_DIR)/stage1/tokenizer
SUBMIT = $(CLI) slurm $(if $(DRY_RUN),--dry-run) $(if $(AFTER),--after $(AFTER))
ASKED = $(if $(NODES),--trainer.num_nodes $(NODES)) $(if $(GPUS),--trainer.accelerator gpu --trainer.devices $(GPUS)) \
  $(if $(PARTITION),--slurm.partition $(PARTITION)) $(if $(ACCOUNT),--slurm.account $(ACCOUNT)) $(if $(TIME),--slurm.time $(TIME))

.NOTPARALLEL:
.PHONY: help setup demo prepare doctor stage1 stage2 slurm-stage1 slurm-stage2 slurm slurm-status unseen tokenize recognizer ensemble test test-slow lint fuzz torture bench ablations tensorboard builtin-llm

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20
	@echo "variables: DATA=$(DATA) LLM=folder-or-hub-id RUN=$(RUN) SEED=$(SEED) CONFIG=more.yaml ARGS=\"--trainer.max_steps=500\" RAW=folder CONFIG1= CONFIG2= (of one stage) SEEDS=$(SEEDS) CELLS= QUICK= JOBS= (of ablations)"

setup: $(SETUP) ## install everything into .venv (done by the other targets)
$(SETUP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

data/synthetic: | $(SETUP)
	$(CLI) prepare synthetic

prepare: $(SETUP) ## raw files to a prepared dataset: DATA=nw_ucla RAW=folder
	$(CLI) prepare $(DATASET) $(if $(RAW),--raw '$(RAW)') $(ARGS)

doctor: $(SETUP) ## check raw files (RAW=folder) or the prepared dataset of DATA=
	$(CLI) doctor $(if $(RAW),'$(RAW)' --dataset $(DATASET),data/$(DATASET)) $(ARGS)

stage1: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## train the action tokenizer
	$(CLI) fit $(STAGE1) $(ARGS)

stage2: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## tune the language model on action sentences
	$(CLI) fit $(STAGE2) $(ARGS)

slurm-stage1: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## stage 1 as a SLURM job: GPUS=4 NODES= PARTITION= ACCOUNT= TIME= DRY_RUN=1
	$(SUBMIT) $(STAGE1) $(ASKED) $(ARGS)

slurm-stage2: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## stage 2 as a SLURM job, AFTER=runs/NAME/stage1 has succeeded
	$(SUBMIT) $(STAGE2) $(ASKED) $(ARGS)

slurm: slurm-stage1 ## both stages, the second when the first has succeeded
	$(MAKE) slurm-stage2 AFTER=$(RUN_DIR)/stage1

slurm-status: $(SETUP) ## state, step, loss, starts and time left of every run
	$(CLI) runs

unseen: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## LLM-AR's unseen classes: both stages for 5 draws, mean and deviation
	$(CLI) unseen --folder $(RUN_DIR)/unseen $(OVERLAYS) $(MODEL) $(ARGS)

tokenize: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## every action sentence of DATA= by RUN='s tokenizer
	$(CLI) tokenize data/$(DATASET) --tokenizer $(RUN_DIR)/stage1/tokenizer $(ARGS)

NETWORK ?= convolution
SOURCE ?= skeleton
STREAM ?=
recognizer: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## no language model: NETWORK=convolution, transformer, st_gcn, ctr_gcn or nearest, SOURCE=skeleton, latents or sentences
	$(CLI) fit --config configs/recognizer.yaml $(if $(filter-out convolution,$(NETWORK)),--config configs/recognizer/$(NETWORK).yaml) $(OVERLAYS) \
	  --trainer.default_root_dir $(RUN_DIR)/$(NETWORK)-$(or $(STREAM),$(SOURCE)) --model.init_args.source $(SOURCE) \
	  $(if $(STREAM),--model.init_args.streams '[$(STREAM)]') \
	  $(if $(filter-out skeleton,$(SOURCE)),--model.init_args.streams null --model.init_args.tokenizer $(RUN_DIR)/stage1/tokenizer) $(ARGS)

STREAMS := joint bone motion bone_motion
WEIGHTS ?= 2 2 1 1
ensemble: ## four streams of NETWORK=ctr_gcn (or another) and their sum: WEIGHTS="2 2 1 1" for joint, bone, motion, bone_motion
	@for stream in $(STREAMS); do $(MAKE) recognizer NETWORK=$(NETWORK) STREAM=$$stream || exit; done
	$(CLI) ensemble $(foreach s,$(STREAMS),$(RUN_DIR)/$(NETWORK)-$(s)) --weights $(WEIGHTS) --out $(RUN_DIR)/$(NETWORK)-ensemble.json

COUNTS ?= 500 1000 2000 4000

demo: $(SETUP) ## both stages on the built-in data, then the name of one clip with its GIF
	$(MAKE) stage1 stage2 RUN=$(RUN)
	$(BIN)/python -m skeleton_llm.skeletons.synthetic $(RUN_DIR)/clip.npy
	$(CLI) recognize $(RUN_DIR)/clip.npy --model $(RUN_DIR)/stage2/recognizer --free --gif $(RUN_DIR)/clip.gif
	@echo "the moving skeleton: $(RUN_DIR)/clip.gif"

test: $(SETUP) ## the tests, minutes
	$(BIN)/python -m pytest $(ARGS)

test-slow: $(SETUP) ## the long tests
	$(BIN)/python -m pytest -m slow --timeout=1500 -n 3 --dist worksteal --durations=12 $(ARGS)

N ?= 2000
fuzz: $(SETUP) ## N=2000 mutants of raw files through every reader
	$(BIN)/python tests/mutants.py $(N) $(SEED)

torture: N = 20
torture: $(SETUP) ## N=20 runs of both stages, killed, signalled and robbed of their disk: they must end as ones untouched
	$(BIN)/python -m benchmarks.torture $(N) --seed $(SEED) $(ARGS)

lint: $(SETUP) ## format, lint, types, import directions, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell README.md docs configs skeleton_llm lightning_modules datamodules callbacks tests --skip "*.json,*.safetensors,*.tsv"

bench: $(SETUP) ## performance as ratios to named peers
	$(BIN)/python -m benchmarks.nearest
	$(BIN)/python -m benchmarks.stage1_step
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.tokenize
	$(BIN)/python -m benchmarks.stage2_step
	$(BIN)/python -m benchmarks.answers
	$(BIN)/python -m benchmarks.observatory
	$(BIN)/python -m benchmarks.read_ntu
	$(BIN)/python -m benchmarks.feeder
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.prepare_growth /tmp $(COUNTS)

SEEDS ?= 1
ablations: $(SETUP) $(if $(filter synthetic,$(DATA)),data/synthetic) ## LLM-AR's tables and baselines over SEEDS= seeds (QUICK=1: seconds a run, JOBS=, CELLS="full no_zipf")
	$(CLI) ablate --data $(DATA) --seeds $(SEEDS) $(if $(QUICK),--quick) $(if $(JOBS),--jobs $(JOBS)) $(if $(CELLS),--cells $(CELLS)) \
	  $(if $(LLM),--llm $(LLM)) $(foreach c,$(CONFIG),--config $(c)) $(foreach c,$(CONFIG1),--stage1 $(c)) $(foreach c,$(CONFIG2),--stage2 $(c)) $(ARGS)

tensorboard: $(SETUP) ## watch the runs
	$(BIN)/tensorboard --logdir runs

builtin-llm: $(SETUP) ## pretrain the built-in language model again (needs Debian's wordnet-base)
	$(BIN)/python -m skeleton_llm.language.built_in $(ARGS)
