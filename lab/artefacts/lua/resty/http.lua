-- SPDX-License-Identifier: GPL-3.0-or-later
-- Copyright: the kubecozy authors
-- Only OCSP stapling (enable-ocsp) uses this library: every request fails with a clear message.

local PROBLEM = "resty.http is not part of this image"

local function refuse()
  return nil, PROBLEM
end

return {
  new = function()
    return setmetatable({}, { __index = function() return refuse end })
  end,
}
