# Thin on purpose: a line a target. Environments are in noxfile.py, the work in build/forge.

VARIANTS := $(basename $(notdir $(wildcard build/variants/*.toml)))
PYTHON ?= python3
VERIFY ?= all
NOX = .venv/bin/python -m nox
# What errors say to do is said in the words of this file.
export HALLMARK_INTERFACE = make
WHERE = $(if $(BASE),--base '$(abspath $(BASE))') $(if $(MIRROR),--mirror '$(abspath $(MIRROR))')
LIMITS = $(if $(MEMORY),--memory $(MEMORY)) $(if $(SHARED),--shared $(SHARED)) $(if $(HOURS),--hours $(HOURS))
OPTIONS = $(WHERE) $(if $(OUT),--out '$(abspath $(OUT))') --verify $(VERIFY) $(LIMITS)

RELEASE = '$(abspath $(or $(DIR),$(firstword $(wildcard dist/$(VARIANT) dist/rehearsal/$(VARIANT))),$(error name a built variant with VARIANT=<v>, or a folder with DIR=<dir>)))'
TRUST = $(if $(KEY),--key '$(abspath $(KEY))') $(if $(IDENTITY),--identity '$(IDENTITY)') $(if $(ISSUER),--issuer '$(ISSUER)') $(if $(UNSIGNED),--unsigned)

.PHONY: help demo test list rehearse verify reproduce compare bench lock image image-test container-test release $(VARIANTS)
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
	@$(NOX) -s forge -- list

rehearse: .venv/made  ## VARIANT=<v> [BASE=<dir>] [MIRROR=<dir>] [OUT=<dir>] [VERIFY=none|structure|all]
	@$(NOX) -s build -- $(VARIANT) --rehearse --runner=$(or $(RUNNER),host) $(OPTIONS)

$(VARIANTS): .venv/made
	@$(NOX) -s build -- $@ --runner=$(or $(RUNNER),image) $(OPTIONS)

image: .venv/made  ## the pinned image of this tree [IMAGE_BASE=<local image>] [SNAPSHOT=<date>|none]
	@$(NOX) -s image -- $(if $(IMAGE_BASE),--base '$(IMAGE_BASE)') $(if $(SNAPSHOT),--snapshot '$(SNAPSHOT)')

image-test: VARIANT = qwen36-27b-vlm-mtp
image-test: .venv/made  ## rehearses the flagship on the host and in the image, and compares SHA256SUMS
	@$(NOX) -s build -- $(VARIANT) --rehearse --runner=image $(WHERE) --out dist/image-test/image $(LIMITS)
	@$(NOX) -s build -- $(VARIANT) --rehearse --verify structure --out dist/image-test/host
	@cd dist/image-test && cmp host/provenance/SHA256SUMS image/provenance/SHA256SUMS && echo "host and image: the same SHA256SUMS"

container-test: .venv/made  ## the tests in real containers; need an engine, and `make image` before
	@$(NOX) -s containers

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
