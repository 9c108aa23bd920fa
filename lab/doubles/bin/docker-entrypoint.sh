#!/bin/sh
# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
# /docker-entrypoint.sh of the CouchDB image: admins from the environment, then the command
PYTHONPATH=/usr/lib/cozy-doubles PYTHONDONTWRITEBYTECODE=1 exec python3 -m doubles.couchdb --entrypoint "$@"
