#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
# cozy-stack calls it with the file or folder of a konnector, a service or a mail template, and with an environment that has no PATH.
exec /usr/bin/node "$1"
