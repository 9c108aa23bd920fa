# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
#
# make site         a Cozy on machines of the lab, from nothing (repeat it: only what is missing is done)
# make lab-client   fetch a page as the client at home does: make lab-client URL=https://home.cozy.example.com/
# make lab-status   what of the lab runs
# make lab-up       the lab's machines and its internet, without a site
# make lab-down     ends the lab: processes, interfaces, mounts (the machines' disks stay)
# make build        builds what the lab serves: programs, images
# make check        the fast part of the tests; STEPS="ruff mypy" for some of them
# make test         everything
# make soak         the long trials: power cuts, killed runs, twenty runs in a row, the scenarios acme, cozy, elsewhere and image
# make bench        how long a first and a second run take
# make sanity       ansible-test sanity
# make contract     what modules and doubles rely on, asked of the doubles, or of a real cozy-stack: CONTRIBUTING.md

RUN := tools/run
LAB := $(RUN) -m lab

.PHONY: site lab-client lab-status lab-up lab-down build check test soak bench sanity contract

site: lab-up
	@$(LAB) exec controller -- ansible-playbook -i inventories/lab site.yml $(ARGS)
	@echo
	@echo 'The Cozy is up: https://cozy.example.com/ (with the lab, only from inside it)'
	@echo '  make lab-client                         fetches that page as the client at home'
	@echo '  make lab-client URL=https://home.cozy.example.com/   or another one'
	@echo '  $(LAB) exec client          a shell there'
	@echo '  make lab-status, make lab-down'

lab-client:
	@$(LAB) client $(URL)

lab-status:
	@$(LAB) status

lab-up:
	@$(LAB) up

lab-down:
	@$(LAB) down

build:
	@$(LAB) build

check test soak bench:
	@$(RUN) -m tools.steps $@ $(STEPS)

sanity:
	@$(RUN) -m tools.sanity

# What stands on make's command line can be read by every user of the machine.
contract:
	@$(foreach name,COZY_ADMIN_PASSPHRASE COUCHDB_USER COUCHDB_PASSWORD,$(if $(filter command,$(firstword $(origin $(name)))),\
	  $(error $(name) is a secret: give it in the environment, or $(name)_FILE)))
	@$(RUN) -m pytest tests/unit/contract
