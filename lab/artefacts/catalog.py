# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""All parts: what is built, at which version, and what of it is served under which upstream name."""

from __future__ import annotations

from .debian import IMAGE_PACKAGES, MACHINE_PACKAGES, DebianRoot
from .go import GoPrograms
from .parts import Part

KUBERNETES = "1.36.3"
CONTAINERD = "2.4.2"
CNI = "1.9.1"
RUNC = "1.5.2"
ETCD = "3.6.8"
COREDNS = "1.14.2"
FLANNEL = "0.28.9"
FLANNEL_CNI = "1.9.1-flannel3"
PAUSE = "3.10.2"
HELM = "4.3.1"
METALLB = "0.16.1"
INGRESS_NGINX = "1.11.0"
INGRESS_NGINX_CHART = "4.11.0"
INGRESS_NGINX_MODULE = "k8s.io/ingress-nginx@v0.0.0-20240708192948-52c50467d67d"
CERT_MANAGER = "1.21.2"
MAILPIT = "1.30.5"
MAILHOG = "1.0.1"
COUCHDB = "3.3.3"
COZY_STACK = "1.6.58"


def _kubernetes_stamps() -> tuple[str, ...]:
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple(f"{package}.{name}={value}" for package in packages for name, value in values.items())


# In the order in which a waiting user needs them: first what makes machines and a cluster, then what runs in it.
PROGRAMS = (
    Part("containerd", GoPrograms("containerd", ("tool",), (f"github.com/containerd/containerd/v2/version.Version=v{CONTAINERD}",))),
    Part("runc", GoPrograms("runc", ("tool",), tags="seccomp,netgo,osusergo", cgo=True)),
    Part("cni", GoPrograms("cni", ("tool",), (f"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v{CNI}",))),
    Part("pause", GoPrograms("pause", (".",))),
    Part(
        "kubernetes",
        GoPrograms(
            "kubernetes",
            (".", *(f"k8s.io/kubernetes/cmd/{name}" for name in ("kubeadm", "kubectl", "kubelet"))),
            _kubernetes_stamps(),
        ),
    ),
    Part("etcd", GoPrograms("etcd", ("tool",), rename=(("server", "etcd"),))),
    Part("coredns", GoPrograms("coredns", ("tool",))),
    Part(
        "flannel",
        GoPrograms(
            "flannel",
            ("tool",),
            (f"github.com/flannel-io/flannel/pkg/version.Version=v{FLANNEL}",),
            rename=(("flannel", "flanneld"),),
            copies=((f"github.com/flannel-io/flannel@v{FLANNEL}", "chart/kube-flannel", "chart"),),
            tags="netgo,osusergo",
            cgo=True,
        ),
    ),
    Part("flannel-cni", GoPrograms("flannel-cni", ("tool",))),
    Part("registry", GoPrograms("registry", ("tool",))),
    Part("helm", GoPrograms("helm", ("tool",), (f"helm.sh/helm/v4/internal/version.version=v{HELM}",))),
    Part(
        "metallb",
        GoPrograms(
            "metallb",
            ("tool",),
            copies=((f"go.universe.tf/metallb@v{METALLB}", "charts/metallb", "chart"),),
        ),
    ),
    Part(
        "ingress-nginx",
        GoPrograms(
            "ingress-nginx",
            tuple(f"k8s.io/ingress-nginx/cmd/{name}" for name in ("dbg", "nginx", "waitshutdown")),
            (
                f"k8s.io/ingress-nginx/version.RELEASE=v{INGRESS_NGINX}",
                "k8s.io/ingress-nginx/version.COMMIT=52c50467d67d",
                "k8s.io/ingress-nginx/version.REPO=k8s.io/ingress-nginx",
            ),
            copies=(
                (INGRESS_NGINX_MODULE, "charts/ingress-nginx", "chart"),
                (INGRESS_NGINX_MODULE, "rootfs/etc/nginx", "nginx"),
            ),
        ),
    ),
    Part(
        "cert-manager",
        GoPrograms(
            "cert-manager",
            (".",),
            (f"github.com/cert-manager/cert-manager/pkg/util.AppVersion=v{CERT_MANAGER}",),
            rename=(("lab", "cert-manager"),),
            copies=((f"github.com/cert-manager/cert-manager@v{CERT_MANAGER}", "deploy/charts/cert-manager", "chart"),),
        ),
    ),
    Part("mailpit", GoPrograms("mailpit", ("tool",), (f"github.com/axllent/mailpit/config.Version=v{MAILPIT}",))),
    Part("mailhog", GoPrograms("mailhog", ("tool",))),
    Part("pebble", GoPrograms("pebble", ("tool",))),
)
ROOTS = (
    Part("base", DebianRoot(MACHINE_PACKAGES, machine=True)),
    Part("image-packages", DebianRoot(IMAGE_PACKAGES, machine=False)),
)
