// SPDX-License-Identifier: GPL-3.0-or-later
// Copyright: the kubecozy authors

// Command registry is the distribution registry with its file system driver only: the drivers for clouds take
// longer to compile than all the rest.
package main

import (
	"os"

	"github.com/distribution/distribution/v3/registry"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

func main() {
	if err := registry.RootCmd.Execute(); err != nil {
		os.Exit(1)
	}
}
