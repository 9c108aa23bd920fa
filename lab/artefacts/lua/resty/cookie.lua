-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright: the kubecozy authors
-- Debian packages this library under another name.
return require("nginx.cookie")
