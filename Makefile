# Thin on purpose: a line a target. Environments are in noxfile.py, the work in build/forge.

VARIANTS := $(basename $(notdir $(wildcard build/variants/*.toml)))
PYTHON ?= python3
RUNNER ?= image
VERIFY ?= all
NOX = .venv/bin/python -m nox
# With less than the full assay nothing needs the engine's environment.
SESSIONS = build $(if $(filter all,$(VERIFY)),verify)
WHERE = $(if $(BASE),--base '$(abspath $(BASE))') $(if $(MIRROR),--mirror '$(abspath $(MIRROR))')
OPTIONS = $(WHERE) $(if $(OUT),--out '$(abspath $(OUT))') --verify $(VERIFY)

RELEASE = '$(abspath $(or $(DIR),$(firstword $(wildcard dist/$(VARIANT) dist/rehearsal/$(VARIANT))),$(error name a built variant with VARIANT=<v>, or a folder with DIR=<dir>)))'
TRUST = $(if $(KEY),--key '$(abspath $(KEY))') $(if $(IDENTITY),--identity '$(IDENTITY)') $(if $(ISSUER),--issuer '$(ISSUER)') $(if $(UNSIGNED),--unsigned)

.PHONY: help demo test list rehearse verify reproduce compare bench lock image release $(VARIANTS)
.PHONY: keygen sign verify-release attest-reproduction publish

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22
	@echo "$(VARIANTS): the real build, with RUNNER=host on this machine"

.venv/made: lockfiles/tools.txt
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --require-hashes --requirement lockfiles/tools.txt
	touch $@

demo: VARIANT = qwen36-27b-vlm-mtp
demo: rehearse  ## rehearse the flagship on its stand-in: no GPU, no hub

test: .venv/made  ## everything that CI runs
	@$(NOX) $(if $(MIRROR),-- '--mirror=$(abspath $(MIRROR))')

list: .venv/made  ## the variants, one a line
	@$(NOX) -s build -- list

rehearse: .venv/made  ## VARIANT=<v> [BASE=<dir>] [MIRROR=<dir>] [OUT=<dir>] [VERIFY=none|structure|all]
	@$(NOX) -s $(SESSIONS) -- run $(VARIANT) --rehearse $(OPTIONS)

$(VARIANTS): .venv/made
ifeq ($(RUNNER),host)
	@$(NOX) -s $(SESSIONS) -- run $@ $(OPTIONS)
else
	@echo "The pinned image is not there yet; RUNNER=host builds on this machine." >&2; exit 2
endif

verify: .venv/made  ## the assay alone: DIR=<release> or VARIANT=<v> [BASE=<dir>] [MIRROR=<dir>]
	@$(NOX) -s assay -- $(or $(abspath $(DIR)),$(firstword $(wildcard dist/$(VARIANT) dist/rehearsal/$(VARIANT)))) $(WHERE)

lock: .venv/made  ## resolve the lock files again, or with VARIANT=<v> that recipe's open pins
	@$(NOX) -s lock -- $(VARIANT)

reproduce: .venv/made  ## rebuild and compare: FROM=<release or its provenance> [BASE=<dir>] [MIRROR=<dir>] [RECALIBRATE=1]
	@$(NOX) -s reproduce -- '$(abspath $(or $(FROM),$(error name a release with FROM=<dir>)))' $(WHERE) $(if $(RECALIBRATE),--recalibrate)

compare: .venv/made  ## two checkpoint folders, tensor by tensor: A=<dir> B=<dir>
	@$(NOX) -s compare -- $(foreach name,A B,'$(abspath $(or $($(name)),$(error name a checkpoint folder with $(name)=<dir>)))')

bench: .venv/made  ## speed and memory against the libraries and the machine's floor
	@$(NOX) -s bench

release: .venv/made  ## make a finished build a release, card and report included: VARIANT=<v> or DIR=<dir>
	@$(NOX) -s release -- forge release $(RELEASE)

keygen: .venv/made  ## a signing key: KEY=<file>, and its public half in <file>.pub
	@$(NOX) -s release -- forge keygen '$(abspath $(or $(KEY),$(error name the new file with KEY=<file>)))'

sign: .venv/made  ## sign a release: DIR=<release> KEY=<private key>, or without KEY the identity at hand [MODEL_SIGNATURE=1]
	@$(NOX) -s release -- forge sign $(RELEASE) $(if $(KEY),--key '$(abspath $(KEY))') $(if $(MODEL_SIGNATURE),--model-signature)

verify-release: .venv/made  ## check a release: DIR=<release> KEY=<public key> or IDENTITY= ISSUER= [POLICY=<file>] [REPRODUCED=<k> STATEMENTS=<files> REBUILDERS=<public keys>] [UNSIGNED=1]
	@$(NOX) -s release -- assay verify-release $(RELEASE) $(TRUST) $(if $(POLICY),--policy '$(abspath $(POLICY))') $(if $(REPRODUCED),--reproduced $(REPRODUCED)) $(foreach file,$(STATEMENTS),--statement '$(abspath $(file))') $(foreach file,$(REBUILDERS),--rebuilder '$(abspath $(file))')

attest-reproduction: .venv/made  ## reproduce, and sign that it succeeded: FROM=<release> KEY=<private key> [BUILDER=<id>] [BASE=<dir>] [MIRROR=<dir>]
	@$(NOX) -s reproduce -- '$(abspath $(or $(FROM),$(error name a release with FROM=<dir>)))' $(WHERE) --report '$(abspath dist/reproduced.json)'
	@$(NOX) -s release -- assay attest-reproduction '$(abspath $(FROM))' '$(abspath dist/reproduced.json)' $(if $(KEY),--key '$(abspath $(KEY))') $(if $(BUILDER),--builder '$(BUILDER)') --out '$(abspath dist/reproductions)'

publish: .venv/made  ## upload a verified release: DIR=<release> REPO=<owner/name> KEY=<public key> [CONFIRM=1]
	@$(NOX) -s release -- assay verify-release $(RELEASE) $(TRUST) $(if $(POLICY),--policy '$(abspath $(POLICY))')
	@$(NOX) -s release -- forge publish $(RELEASE) '$(or $(REPO),$(error name the repository with REPO=<owner/name>))' $(if $(CONFIRM),--confirm) $(if $(REHEARSAL),--rehearsal)

image:
	@echo "make $@ is not there yet; see 'What is not there yet' in README.md." >&2; exit 2
