-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright: the kubecozy authors
-- Only the global-rate-limit annotations use this library.

return {
  new = function()
    return nil, "resty.global_throttle is not part of this image"
  end,
}
