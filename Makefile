# Thin on purpose: a line a target. What runs where is in noxfile.py, the work in build/forge.

VARIANTS := $(basename $(notdir $(wildcard build/variants/*.toml)))
PYTHON ?= python3
VERIFY ?= all
NOX = .venv/bin/python noxfile.py
# What errors say to do is said in the words of this file.
export HALLMARK_INTERFACE = make
# Whatever the locale: nox and venv fail where it lacks a character of the checkout's path.
export PYTHONUTF8 = 1

# A value reaches a command as it was written: `value` takes it without expanding it, the quotes
# keep the shell off it, and no command finds it, expanded, in its environment. A path may hold
# spaces, so it is made absolute by hand; of a list of paths, "\ " is a space within a name.
quote = '$(subst ','\'',$(1))'
absolute = $(if $(filter /%,$(firstword $(1))),,$(CURDIR)/)$(1)
text = $(call quote,$(value $(1)))
path = $(call quote,$(call absolute,$(value $(1))))
flag = $(if $(value $(1)),$(2))
option = $(if $(value $(1)),$(2) $(call text,$(1)))
path-option = $(if $(value $(1)),$(2) $(call path,$(1)))
list-option = $(foreach one,$(subst \$(space),<space>,$(value $(1))),$(2) $(call quote,$(call absolute,$(subst <space>,$(space),$(one)))))
needed = $(if $(value $(1)),,$(error name $(2) with $(1)=<$(3)>))
space := $(subst ,, )
define newline


endef

# All that the command line may set. Another name is a mistake, such as VARAINT=, and no target runs.
NAMES := A ASIDE B BASE BUILDER CALIBRATIONS COMMIT CONFIRM DAYS DIGEST DIR ENGINE FORMATS FROM FULL \
	HOURS IDENTITY IMAGE_BASE ISSUER KEY LOGS MEMORY MIRROR MODEL_SIGNATURE NOX OUT POLICY PYTHON \
	REBUILDERS RECALIBRATE REHEARSAL REPLACE REPO REPRODUCED REVISION RUNNER SHARED SINCE SNAPSHOT \
	STATEMENTS UNSIGNED VARIANT VERIFY
given = $(filter command,$(firstword $(origin $(1))))
nearest = $(shell $(call text,PYTHON) -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))' $(call quote,$(1)) $(NAMES))
instead = $(if $(1),did you mean $(1)=?,there are $(NAMES))
$(foreach one,$(filter-out $(NAMES),$(.VARIABLES)),$(if $(call given,$(one)),$(error $(one)= is no variable of this Makefile: $(call instead,$(call nearest,$(one))))))
$(foreach one,$(NAMES),$(if $(findstring $(newline),$(value $(one))),$(error $(one)= holds a line break)))
$(if $(filter-out host image,$(value RUNNER)),$(error RUNNER= is host or image))
unexport $(NAMES)
# Whose modules run is said by lock files.
unexport PYTHONHOME PYTHONPATH

THE_VARIANT = $(call needed,VARIANT,a variant,v)$(call text,VARIANT)
WHERE = $(call path-option,BASE,--base) $(call path-option,MIRROR,--mirror)
LIMITS = $(call option,MEMORY,--memory) $(call option,SHARED,--shared) $(call option,HOURS,--hours)
OPTIONS = $(WHERE) $(call path-option,OUT,--out) --verify $(call text,VERIFY) $(LIMITS) $(call flag,REPLACE,--replace)

BUILT = $(if $(value VARIANT),$(firstword $(wildcard dist/$(value VARIANT) dist/rehearsal/$(value VARIANT))))
RELEASE = $(if $(value DIR),$(call path,DIR),$(call quote,$(CURDIR)/$(or $(BUILT),$(error name a built variant with VARIANT=<v>, or a folder with DIR=<dir>))))
REBUILT = $(call needed,FROM,a release,dir)$(call path,FROM)
TRUST = $(call path-option,KEY,--key) $(call option,IDENTITY,--identity) $(call option,ISSUER,--issuer) $(call flag,UNSIGNED,--unsigned)
EXPECTED = $(call option,VARIANT,--variant) $(call option,DIGEST,--digest) $(call option,SINCE,--since) $(call option,COMMIT,--commit) $(call option,REVISION,--revision) $(call option,FORMATS,--formats) $(call flag,REHEARSAL,--rehearsal)
ON_ITS_ENGINE = $(call path-option,ENGINE,--engine) $(call path-option,LOGS,--logs)
DEMANDS = $(TRUST) $(call path-option,POLICY,--policy) $(EXPECTED)

.PHONY: help demo test list preflight rehearse verify gpu reproduce compare bench lock image image-test container-test release $(VARIANTS)
.PHONY: keygen sign verify-release attest-reproduction publish schemas faults store-list store-size store-gc store-fsck

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22
	@echo "$(VARIANTS): the real build, with RUNNER=host on this machine"

.venv/made: lockfiles/tools.txt
	$(call text,PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --require-hashes --requirement lockfiles/tools.txt
	touch $@

demo: VARIANT = qwen36-27b-vlm-mtp
demo: rehearse  ## rehearse the flagship on its stand-in: no GPU, no hub

test: .venv/made  ## everything that CI runs [MIRROR=<dir>] [FULL=1]
	@$(NOX)$(if $(value MIRROR)$(value FULL), -- $(if $(value MIRROR),$(call quote,--mirror=$(call absolute,$(value MIRROR)))) $(call flag,FULL,--full))

faults: .venv/made  ## kill and refuse every command at every file operation, into dist/faults.json
	@$(NOX) -s faults

list: .venv/made  ## the variants, one a line
	@$(NOX) -s forge -- list

rehearse: .venv/made  ## VARIANT=<v> [BASE=<dir>] [MIRROR=<dir>] [OUT=<dir>] [VERIFY=none|structure|all] [REPLACE=1]
	@$(NOX) -s build -- $(THE_VARIANT) --rehearse --runner=$(or $(value RUNNER),host) $(OPTIONS)

preflight: .venv/made  ## what a build must fail of, told from headers and configs: VARIANT=<v> [BASE=<dir>] [MIRROR=<dir>]
	@$(NOX) -s forge -- preflight $(THE_VARIANT) $(WHERE)

$(VARIANTS): .venv/made
	@$(NOX) -s build -- $@ --runner=$(or $(value RUNNER),image) $(OPTIONS)

image: .venv/made  ## the pinned image of this tree [IMAGE_BASE=<local image>] [SNAPSHOT=<date>|none]
	@$(NOX) -s image -- $(call option,IMAGE_BASE,--base) $(call option,SNAPSHOT,--snapshot)

image-test: VARIANT = qwen36-27b-vlm-mtp
image-test: .venv/made  ## rehearses the flagship on the host and in the image, and compares SHA256SUMS
	@$(NOX) -s build -- $(THE_VARIANT) --rehearse --runner=image $(WHERE) --out dist/image-test/image $(LIMITS)
	@$(NOX) -s build -- $(THE_VARIANT) --rehearse --verify structure --out dist/image-test/host
	@cd dist/image-test && cmp host/provenance/SHA256SUMS image/provenance/SHA256SUMS && echo "host and image: the same SHA256SUMS"

container-test: .venv/made  ## the tests in real containers; need an engine, and `make image` before
	@$(NOX) -s containers

verify: .venv/made  ## the assay alone: DIR=<release> or VARIANT=<v> [BASE=<dir>] [MIRROR=<dir>] [ENGINE=<file>] [LOGS=<dir>]
	@$(NOX) -s assay -- $(RELEASE) $(WHERE) $(ON_ITS_ENGINE)

gpu:  ## assay and full-size build with this machine's own packages: [PYTHON=<python>] [DIR=<rehearsals>] [ENGINE=<file>] [OUT=<dir>]
	@$(call text,PYTHON) tests/gpu $(call path-option,DIR,--rehearsals) $(call path-option,ENGINE,--engine) $(call path-option,OUT,--out)

lock: .venv/made  ## resolve the lock files again, or with VARIANT=<v> that recipe's open pins
	@$(NOX) -s lock $(if $(filter command environment,$(firstword $(origin VARIANT))),-- $(THE_VARIANT))

store-list: .venv/made  ## the stored results, one a line [FULL=1]
	@$(NOX) -s forge -- store list $(call flag,FULL,--full)

store-size: .venv/made  ## the bytes of the store by step
	@$(NOX) -s forge -- store size

store-gc: .venv/made  ## remove what nothing needs: [DAYS=<n>] [CALIBRATIONS=1] [ASIDE=1] [CONFIRM=1]
	@$(NOX) -s forge -- store gc $(call option,DAYS,--days) $(call flag,CALIBRATIONS,--calibrations) $(call flag,ASIDE,--aside) $(call flag,CONFIRM,--confirm)

store-fsck: .venv/made  ## hash all that is stored, and remove what is damaged
	@$(NOX) -s forge -- store fsck

schemas: .venv/made  ## write docs/schemas anew from the models, after a change of a document
	@$(NOX) -s forge -- schemas

reproduce: .venv/made  ## rebuild and compare: FROM=<release or its provenance> [BASE=<dir>] [MIRROR=<dir>] [RECALIBRATE=1]
	@$(NOX) -s reproduce -- $(REBUILT) $(WHERE) $(call flag,RECALIBRATE,--recalibrate)

compare: .venv/made  ## two checkpoint folders, tensor by tensor: A=<dir> B=<dir>
	@$(NOX) -s compare -- $(foreach name,A B,$(call needed,$(name),a checkpoint folder,dir)$(call path,$(name)))

bench: .venv/made  ## speed and memory against the libraries and the machine's floor
	@$(NOX) -s bench

release: .venv/made  ## make a finished build a release, card and report included: VARIANT=<v> or DIR=<dir> [REPLACE=1]
	@$(NOX) -s release -- forge release $(RELEASE) $(call flag,REPLACE,--replace)

keygen: .venv/made  ## a signing key: KEY=<file>, and its public half in <file>.pub
	@$(NOX) -s release -- forge keygen $(call needed,KEY,the new file,file)$(call path,KEY)

sign: .venv/made  ## sign a release: DIR=<release> KEY=<private key>, or without KEY the identity at hand [MODEL_SIGNATURE=1]
	@$(NOX) -s release -- forge sign $(RELEASE) $(call path-option,KEY,--key) $(call flag,MODEL_SIGNATURE,--model-signature)

verify-release: .venv/made  ## check a release: DIR=<release> KEY=<public key> or IDENTITY= ISSUER= [POLICY=<file>] [VARIANT= DIGEST= SINCE= COMMIT= REVISION= FORMATS=] [REHEARSAL=1] [REPRODUCED=<k> STATEMENTS=<files> REBUILDERS=<public keys>] [UNSIGNED=1]
	@$(NOX) -s check -- assay verify-release $(RELEASE) $(DEMANDS) $(call option,REPRODUCED,--reproduced) $(call list-option,STATEMENTS,--statement) $(call list-option,REBUILDERS,--rebuilder)

attest-reproduction: .venv/made  ## reproduce, and sign that it succeeded: FROM=<release> KEY=<private key> [BUILDER=<id>] [BASE=<dir>] [MIRROR=<dir>]
	@$(NOX) -s reproduce -- $(REBUILT) $(WHERE) --report dist/reproduced.json
	@$(NOX) -s check -- assay attest-reproduction $(REBUILT) dist/reproduced.json $(call path-option,KEY,--key) $(call option,BUILDER,--builder) --out dist/reproductions

publish: .venv/made  ## upload a verified release: DIR=<release> REPO=<owner/name> KEY=<public key> [REHEARSAL=1] [CONFIRM=1]
	@$(NOX) -s check -- assay verify-release $(RELEASE) $(DEMANDS)
	@$(NOX) -s release -- forge publish $(RELEASE) $(call needed,REPO,the repository,owner/name)$(call text,REPO) $(call flag,CONFIRM,--confirm) $(call flag,REHEARSAL,--rehearsal)
