# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""All parts: what is built, at which version, and what of it is served under which upstream name."""

from __future__ import annotations

from pathlib import Path

from .debian import IMAGE_PACKAGES, MACHINE_PACKAGES, DebianRoot, SlimRoot
from .go import GoPrograms
from .images import PATH, File, Folder, Image, Layer, Link, Owner, Packages, Project, Registry, Text, Tree
from .ingress import IngressNginxFiles
from .parts import Part
from .python import PythonProgram
from .web import Archive, Chart, Plain, Programs, WebTree

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
HELM3 = "3.22.0"
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
    Part(
        "containerd",
        GoPrograms("containerd", ("tool",), (f"github.com/containerd/containerd/v2/version.Version=v{CONTAINERD}",)),
    ),
    Part("runc", GoPrograms("runc", ("tool",), tags="seccomp,netgo,osusergo", cgo=True)),
    Part(
        "cni",
        GoPrograms(
            "cni", ("tool",), (f"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=v{CNI}",)
        ),
    ),
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
    Part("registry", GoPrograms("registry", (".",))),
    Part("helm", GoPrograms("helm", ("tool",), (f"helm.sh/helm/v4/internal/version.version=v{HELM}",))),
    Part("helm3", GoPrograms("helm3", ("tool",), (f"helm.sh/helm/v3/internal/version.version=v{HELM3}",))),
    Part(
        "flannel",
        GoPrograms(
            "flannel",
            ("tool", "github.com/flannel-io/flannel/cmd/install_conf"),
            (f"github.com/flannel-io/flannel/pkg/version.Version=v{FLANNEL}",),
            rename=(("flannel", "flanneld"), ("install_conf", "install-conf")),
            copies=((f"github.com/flannel-io/flannel@v{FLANNEL}", "chart/kube-flannel", "chart"),),
            tags="netgo,osusergo",
            cgo=True,
        ),
    ),
    Part("flannel-cni", GoPrograms("flannel-cni", ("tool",))),
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
    # debootstrap wants a name; this package is in any case.
    Part("slim", SlimRoot(("base-files",), machine=False)),
)

# ---------------------------------------------------------------------------------------------------------- images

ARCHIVES = Path(__file__).parents[1] / "images.d"
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler")
CERT_MANAGER_PROGRAMS = ("acmesolver", "cainjector", "controller", "startupapicheck", "webhook")
_SCRATCH = Folder("/tmp", 0o1777)  # noqa: S108  # a folder inside images
_COMMANDS = """
    awk basename cat chgrp chmod chown cp cut date dd df dirname du echo env false find grep head hostname id kill ln ls
    mkdir mktemp mv nc nslookup ping printf ps pwd readlink rm rmdir sed seq sh sha256sum sleep sort stat sync tail tar
    tee test timeout touch tr true uname wc wget which whoami xargs
"""
_SHELL = tuple(Link(f"/usr/bin/{name}", "busybox") for name in _COMMANDS.split())
_AUTHORITIES = File(
    "/etc/ssl/certs/ca-certificates.crt", "image-packages/root/etc/ssl/certs/ca-certificates.crt", 0o644
)
_WWW = Owner(101, 82)
_COUCHDB = Owner(5984, 5984)
_COZY = Owner(3552, 3552)


def _passwd(name: str, owner: Owner, home: str) -> tuple[Text, Text]:
    return (
        Text("/etc/passwd", f"root:x:0:0:root:/root:/bin/sh\n{name}:x:{owner.uid}:{owner.gid}::{home}:/bin/sh\n"),
        Text("/etc/group", f"root:x:0:\n{name}:x:{owner.gid}:\n"),
    )


def _python(path: str, module: str, *arguments: str) -> Text:
    call = f"sys.exit(main([{', '.join(map(repr, arguments))}{', ' if arguments else ''}*sys.argv[1:]]))"
    lines = (
        "#!/usr/bin/python3",
        "import sys",
        'sys.path.insert(0, "/usr/local/lib/doubles")',
        f"from {module} import main",
        call,
        "",
    )
    return Text(path, "\n".join(lines), 0o755)


_DOUBLES = ("lab/__init__.py", "lab/doubles/__init__.py", "lab/doubles/web.py")
_COZY_STACK = (*_DOUBLES, "lab/doubles/cozy_stack")


def _doubles(*names: str) -> tuple[Project, ...]:
    return tuple(Project(f"/usr/local/lib/doubles/{name}", name) for name in names)


LAYERS = (
    Part("layer-pause", Layer((File("/pause", "pause/bin/pause"),)), ("pause",)),
    Part(
        "layer-kubernetes",
        Layer(
            (
                _SCRATCH,
                File("/usr/local/bin/kubernetes", "kubernetes/bin/kubernetes"),
                *(Link(f"/usr/local/bin/{name}", "kubernetes") for name in SERVERS),
            )
        ),
        ("kubernetes",),
    ),
    # netbase brings /etc/protocols: without it `nft --json` prints numbers, and kube-proxy deletes rules in use.
    Part(
        "layer-network-tools",
        Layer((Packages(("busybox-static", "conntrack", "iptables", "netbase", "nftables")), *_SHELL)),
        ("image-packages",),
    ),
    Part(
        "layer-etcd",
        Layer(
            (_SCRATCH, File("/usr/local/bin/etcd", "etcd/bin/etcd"), File("/usr/local/bin/etcdctl", "etcd/bin/etcdctl"))
        ),
        ("etcd",),
    ),
    Part(
        "layer-coredns", Layer((File("/coredns", "coredns/bin/coredns"), _AUTHORITIES)), ("coredns", "image-packages")
    ),
    Part(
        "layer-flannel",
        Layer(tuple(File(f"/opt/bin/{name}", f"flannel/bin/{name}") for name in ("flanneld", "install-conf"))),
        ("flannel",),
    ),
    Part("layer-flannel-cni", Layer((File("/flannel", "flannel-cni/bin/flannel"),)), ("flannel-cni",)),
    Part(
        "layer-metallb",
        Layer((_SCRATCH, *(File(f"/{name}", f"metallb/bin/{name}") for name in ("controller", "speaker")))),
        ("metallb",),
    ),
    Part(
        "layer-nginx",
        Layer(
            (
                Packages(
                    (
                        "busybox-static",
                        "ca-certificates",
                        "dumb-init",
                        "libnginx-mod-http-headers-more-filter",
                        "libnginx-mod-http-lua",
                        "libnginx-mod-http-set-misc",
                        "libnginx-mod-http-subs-filter",
                        "libnginx-mod-stream",
                        "lua-cjson",
                        "lua-nginx-cookie",
                        "lua-nginx-dns",
                        "lua-nginx-string",
                        "lua-resty-core",
                        "lua-resty-lrucache",
                        "nginx",
                        "openssl",
                    )
                ),
                *_SHELL,
                _AUTHORITIES,
                Tree("/etc/nginx/modules-enabled", "image-packages/root/etc/nginx/modules-enabled"),
                Link("/usr/bin/nginx", "../sbin/nginx"),
            )
        ),
        ("image-packages",),
    ),
    Part("ingress-nginx-files", IngressNginxFiles(), ("ingress-nginx",)),
    Part(
        "layer-ingress-nginx",
        Layer(
            (
                *_passwd("www-data", _WWW, "/var/www"),
                *(
                    Folder(path, owner=_WWW)
                    for path in (
                        "/etc/nginx",
                        "/etc/nginx/lua",
                        "/etc/nginx/template",
                        "/etc/ingress-controller",
                        "/etc/ingress-controller/auth",
                        "/etc/ingress-controller/geoip",
                        "/etc/ingress-controller/ssl",
                        "/etc/ingress-controller/telemetry",
                        f"{_SCRATCH.path}/nginx",
                        "/var/lib/nginx",
                        "/var/log/nginx",
                    )
                ),
                _SCRATCH,
                Tree("/etc/nginx", "ingress-nginx-files/etc-nginx", _WWW),
                Link("/var/log/nginx/access.log", "/dev/stdout"),
                Link("/var/log/nginx/error.log", "/dev/stderr"),
                File("/nginx-ingress-controller", "ingress-nginx/bin/nginx"),
                File("/dbg", "ingress-nginx/bin/dbg"),
                File("/wait-shutdown", "ingress-nginx/bin/waitshutdown"),
            )
        ),
        ("ingress-nginx", "ingress-nginx-files"),
    ),
    Part(
        "layer-cert-manager",
        Layer(
            (
                _SCRATCH,
                _AUTHORITIES,
                File("/usr/local/bin/cert-manager", "cert-manager/bin/cert-manager"),
                *(Link(f"/usr/local/bin/{name}", "cert-manager") for name in CERT_MANAGER_PROGRAMS),
            )
        ),
        ("cert-manager", "image-packages"),
    ),
    Part("layer-mailpit", Layer((_SCRATCH, File("/mailpit", "mailpit/bin/mailpit"))), ("mailpit",)),
    Part(
        "layer-mailhog",
        Layer(
            (
                _SCRATCH,
                *_passwd("mailhog", Owner(1000, 1000), "/home/mailhog"),
                Folder("/home/mailhog", owner=Owner(1000, 1000)),
                File("/usr/local/bin/MailHog", "mailhog/bin/MailHog"),
            )
        ),
        ("mailhog",),
    ),
    Part(
        "layer-python",
        Layer(
            (
                Packages(("busybox-static", "ca-certificates", "python3", "python3-yaml", "tzdata")),
                *_SHELL,
                _AUTHORITIES,
            )
        ),
        ("image-packages",),
    ),
    Part(
        "layer-couchdb",
        Layer(
            (
                *_passwd("couchdb", _COUCHDB, "/opt/couchdb"),
                *(
                    Folder(f"/opt/couchdb{path}", owner=_COUCHDB)
                    for path in ("", "/bin", "/data", "/etc", "/etc/default.d", "/etc/local.d")
                ),
                *_doubles(*_DOUBLES, "lab/doubles/couchdb.py"),
                _python("/docker-entrypoint.sh", "lab.doubles.couchdb", "--entrypoint"),
                _python("/opt/couchdb/bin/couchdb", "lab.doubles.couchdb"),
            )
        ),
    ),
    Part(
        "layer-cozy-stack",
        Layer(
            (
                *_passwd("cozy", _COZY, "/var/lib/cozy"),
                Folder("/etc/cozy"),
                Folder("/var/lib/cozy", owner=_COZY),
                *_doubles(*_COZY_STACK),
                _python("/usr/local/bin/cozy-stack", "lab.doubles.cozy_stack.__main__"),
            )
        ),
    ),
    Part(
        "layer-slim",
        Layer((Tree("", "slim/root"),)),
        ("slim",),
    ),
)


def _server(name: str) -> Image:
    tools = ("layer-network-tools",) if name == "kube-proxy" else ()
    return Image(
        f"registry.k8s.io/{name}:v{KUBERNETES}", ("layer-kubernetes", *tools), entrypoint=(f"/usr/local/bin/{name}",)
    )


IMAGES = (
    Image(f"registry.k8s.io/pause:{PAUSE}", ("layer-pause",), entrypoint=("/pause",), user="65535:65535"),
    *map(_server, SERVERS),
    Image(f"registry.k8s.io/etcd:{ETCD}-0", ("layer-etcd",), command=("etcd",)),
    Image(
        f"registry.k8s.io/coredns/coredns:v{COREDNS}", ("layer-coredns",), entrypoint=("/coredns",), user="65532:65532"
    ),
    Image(
        f"ghcr.io/flannel-io/flannel:v{FLANNEL}",
        ("layer-network-tools", "layer-flannel"),
        entrypoint=("/opt/bin/flanneld",),
    ),
    Image(f"ghcr.io/flannel-io/flannel-cni-plugin:v{FLANNEL_CNI}", ("layer-network-tools", "layer-flannel-cni")),
    Image(f"quay.io/metallb/controller:v{METALLB}", ("layer-metallb",), entrypoint=("/controller",)),
    Image(f"quay.io/metallb/speaker:v{METALLB}", ("layer-metallb",), entrypoint=("/speaker",)),
    Image(
        f"registry.k8s.io/ingress-nginx/controller:v{INGRESS_NGINX}",
        ("layer-nginx", "layer-ingress-nginx"),
        entrypoint=("/usr/bin/dumb-init", "--"),
        command=("/nginx-ingress-controller",),
        user="101:82",
        workdir="/etc/nginx",
    ),
    *(
        Image(
            f"quay.io/jetstack/cert-manager-{name}:v{CERT_MANAGER}",
            ("layer-cert-manager",),
            entrypoint=(f"/usr/local/bin/{name}",),
            user="1000:1000",
        )
        for name in CERT_MANAGER_PROGRAMS
    ),
    Image(f"docker.io/axllent/mailpit:v{MAILPIT}", ("layer-mailpit",), entrypoint=("/mailpit",)),
    Image(
        f"docker.io/mailhog/mailhog:v{MAILHOG}",
        ("layer-mailhog",),
        entrypoint=("MailHog",),
        user="mailhog",
        workdir="/home/mailhog",
    ),
    Image(
        f"docker.io/library/couchdb:{COUCHDB}",
        ("layer-python", "layer-couchdb"),
        entrypoint=("/docker-entrypoint.sh",),
        command=("/opt/couchdb/bin/couchdb",),
        env=(
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/couchdb/bin",
            "PYTHONUNBUFFERED=1",
        ),
    ),
    Image("docker.io/library/debian:13-slim", ("layer-slim",), command=("bash",)),
    Image(
        f"docker.io/cozy/cozy-stack:{COZY_STACK}",
        ("layer-python", "layer-cozy-stack"),
        command=("cozy-stack", "serve"),
        user="cozy",
        env=(PATH, "PYTHONUNBUFFERED=1"),
        workdir="/var/lib/cozy",
    ),
)
REGISTRY = Part(
    "registry-storage",
    Registry(IMAGES, ARCHIVES),
    tuple(sorted({layer for image in IMAGES for layer in image.layers})),
)

# --------------------------------------------------------------------------------------------------------- the web

_CNI_PLUGINS = """
    bandwidth bridge dhcp dummy firewall host-device host-local ipvlan loopback macvlan portmap ptp sbr static tap
    tuning vlan vrf
"""
_GITHUB = "github.com/{}/releases/download"
_CONTAINERD = f"containerd-{CONTAINERD}-linux-amd64.tar.gz"
_CNI = f"cni-plugins-linux-amd64-v{CNI}.tgz"
_COZY_STACK_FILE = f"cozy-stack-linux-amd64-{COZY_STACK}"
COZY_STACK_PROGRAM = Part("cozy-stack", PythonProgram("cozy-stack", "lab.doubles.cozy_stack.__main__", _COZY_STACK))
WEB_FILES: tuple[Plain | Archive | Chart, ...] = (
    *(
        Plain(
            f"dl.k8s.io/release/v{KUBERNETES}/bin/linux/amd64/{name}",
            f"kubernetes/bin/{name}",
            ((f"{name}.sha256", "sha256"),),
        )
        for name in ("kubeadm", "kubectl", "kubelet")
    ),
    Archive(
        f"{_GITHUB.format('containerd/containerd')}/v{CONTAINERD}/{_CONTAINERD}",
        tuple(
            (f"bin/{name}", f"containerd/bin/{name}")
            for name in ("containerd", "containerd-shim-runc-v2", "containerd-stress", "ctr")
        ),
        ((f"{_CONTAINERD}.sha256sum", "sha256sum"),),
    ),
    Plain(
        f"{_GITHUB.format('opencontainers/runc')}/v{RUNC}/runc.amd64",
        "runc/bin/runc",
        (("runc.sha256sum", "sha256sum"),),
    ),
    Archive(
        f"{_GITHUB.format('containernetworking/plugins')}/v{CNI}/{_CNI}",
        tuple((f"./{name}", f"cni/bin/{name}") for name in _CNI_PLUGINS.split()),
        ((f"{_CNI}.sha256", "sha256sum"),),
    ),
    *(
        Archive(
            f"get.helm.sh/helm-v{release}-linux-amd64.tar.gz",
            (("linux-amd64/helm", f"{part}/bin/helm"),),
            ((f"helm-v{release}-linux-amd64.tar.gz.sha256sum", "sha256sum"),),
        )
        for release, part in ((HELM, "helm"), (HELM3, "helm3"))
    ),
    Chart(
        f"{_GITHUB.format('flannel-io/flannel')}/v{FLANNEL}/flannel.tgz",
        "flannel/src/chart",
        "flannel",
        f"v{FLANNEL}",
        f"v{FLANNEL}",
    ),
    Chart(
        f"{_GITHUB.format('metallb/metallb')}/metallb-chart-{METALLB}/metallb-{METALLB}.tgz",
        "metallb/src/chart",
        "metallb",
        METALLB,
        f"v{METALLB}",
    ),
    Chart(
        f"{_GITHUB.format('kubernetes/ingress-nginx')}/helm-chart-{INGRESS_NGINX_CHART}/ingress-nginx-{INGRESS_NGINX_CHART}.tgz",
        "ingress-nginx/src/chart",
        "ingress-nginx",
        INGRESS_NGINX_CHART,
        INGRESS_NGINX,
    ),
    Chart(
        f"charts.jetstack.io/charts/cert-manager-v{CERT_MANAGER}.tgz",
        "cert-manager/src/chart",
        "cert-manager",
        f"v{CERT_MANAGER}",
        f"v{CERT_MANAGER}",
    ),
    Plain(
        f"{_GITHUB.format('cozy/cozy-stack')}/{COZY_STACK}/{_COZY_STACK_FILE}",
        "cozy-stack/cozy-stack",
        ((f"{_COZY_STACK_FILE}.sha256", "openssl"),),
    ),
)
WEB = Part(
    "web",
    WebTree(WEB_FILES),
    (
        *("kubernetes", "containerd", "runc", "cni", "helm", "helm3", "flannel", "metallb", "ingress-nginx"),
        *("cert-manager", COZY_STACK_PROGRAM.name),
    ),
)

# -------------------------------------------------------------------------------------------------- the lab's own

HOST_PROGRAMS = {
    "helm": "helm/bin/helm",
    "kubectl": "kubernetes/bin/kubectl",
    "pebble": "pebble/bin/pebble",
    "pebble-challtestsrv": "pebble/bin/pebble-challtestsrv",
    "registry": "registry/bin/registry",
}
HOST = Part(
    "programs",
    Programs(tuple(HOST_PROGRAMS.items())),
    tuple(sorted({path.partition("/")[0] for path in HOST_PROGRAMS.values()})),
)

PARTS = (*ROOTS, *PROGRAMS, *LAYERS, COZY_STACK_PROGRAM, REGISTRY, WEB, HOST)
