// SPDX-License-Identifier: GPL-3.0-or-later
// Copyright: the kubecozy authors

package main

import (
	"context"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/cert-manager/cert-manager/pkg/controller"
	"github.com/cert-manager/cert-manager/pkg/healthz"
	dnsutil "github.com/cert-manager/cert-manager/pkg/issuer/acme/dns/util"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/server"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	// Each of these adds itself to controller.Known() or to the known issuers.
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmechallenges"
	_ "github.com/cert-manager/cert-manager/pkg/controller/acmeorders"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificate-shim/ingresses"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/acme"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/approver"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/ca"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificaterequests/selfsigned"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/issuing"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/keymanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/metrics"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/readiness"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/requestmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/revisionmanager"
	_ "github.com/cert-manager/cert-manager/pkg/controller/certificates/trigger"
	_ "github.com/cert-manager/cert-manager/pkg/controller/clusterissuers"
	_ "github.com/cert-manager/cert-manager/pkg/controller/issuers"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/acme"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/ca"
	_ "github.com/cert-manager/cert-manager/pkg/issuer/selfsigned"
)

const (
	leaseName      = "cert-manager-controller" // the chart's RBAC names it
	healthAddress  = ":9403"
	metricsAddress = ":9402"
	workers        = 5
)

// controllerOptions are upstream's defaults, with the flags that the chart may pass.
func controllerOptions(flags *pflag.FlagSet) *controller.ContextOptions {
	options := &controller.ContextOptions{
		KubernetesAPIQPS:   20,
		KubernetesAPIBurst: 50,
		IssuerOptions:      controller.IssuerOptions{ClusterIssuerAmbientCredentials: true},
		ACMEOptions: controller.ACMEOptions{
			ACMEHTTP01SolverRunAsNonRoot:      true,
			HTTP01SolverResourceRequestCPU:    resource.MustParse("10m"),
			HTTP01SolverResourceRequestMemory: resource.MustParse("64Mi"),
			HTTP01SolverResourceLimitsCPU:     resource.MustParse("100m"),
			HTTP01SolverResourceLimitsMemory:  resource.MustParse("64Mi"),
		},
		IngressShimOptions: controller.IngressShimOptions{
			DefaultAutoCertificateAnnotations: []string{"kubernetes.io/tls-acme"},
		},
		CertificateOptions: controller.CertificateOptions{
			CopiedAnnotationPrefixes: []string{
				"*", "-kubectl.kubernetes.io/", "-fluxcd.io/", "-argocd.argoproj.io/",
			},
			CertificateRequestMaximumBackoffDuration: 32 * time.Hour,
		},
	}
	flags.StringVar(&options.Kubeconfig, "kubeconfig", "", "kubeconfig, instead of the Pod's own account")
	flags.StringVar(&options.Namespace, "namespace", "", "only look at this namespace")
	flags.StringVar(&options.ClusterResourceNamespace, "cluster-resource-namespace", "kube-system",
		"where the Secrets of ClusterIssuers are")
	flags.StringVar(&options.HTTP01SolverImage, "acme-http01-solver-image", "", "image of the HTTP-01 solver")
	flags.StringVar(&options.HTTP01SolverRuntimeClassName, "acme-http01-solver-runtime-class-name", "",
		"runtime class of the solver's Pod")
	flags.StringToStringVar(&options.HTTP01SolverExtraLabels, "acme-http01-solver-extra-labels", nil,
		"labels of the solver's Pod")
	flags.StringSliceVar(&options.HTTP01SolverNameservers, "acme-http01-solver-nameservers", nil,
		"name servers of the HTTP-01 self check")
	flags.StringSliceVar(&options.DNS01Nameservers, "dns01-recursive-nameservers", nil,
		"name servers of the DNS-01 self check")
	flags.DurationVar(&options.DNS01CheckRetryPeriod, "dns01-check-retry-period", 10*time.Second,
		"time between two DNS-01 self checks")
	flags.IntVar(&options.MaxConcurrentChallenges, "max-concurrent-challenges", 60, "challenges at a time")
	flags.BoolVar(&options.EnableOwnerRef, "enable-certificate-owner-ref", false,
		"delete a Secret with its Certificate")
	flags.StringVar(&options.DefaultIssuerName, "default-issuer-name", "", "issuer for annotated Ingresses")
	flags.StringVar(&options.DefaultIssuerKind, "default-issuer-kind", "Issuer", "its kind")
	flags.StringVar(&options.DefaultIssuerGroup, "default-issuer-group", "cert-manager.io", "its group")
	flags.DurationVar(&options.CertificateRequestMinimumBackoffDuration,
		"certificate-request-minimum-backoff-duration", time.Hour, "first pause after a failure")
	return options
}

func runController(ctx context.Context, flags *pflag.FlagSet) error {
	options := controllerOptions(flags)
	var election leaderElection
	election.addFlags(flags)
	recursiveOnly := flags.Bool("dns01-recursive-nameservers-only", false, "never ask the authoritative servers")
	chosen := flags.StringSlice("controllers", []string{"*"}, "controllers to run; -NAME leaves one out")
	if err := parseCommon(flags); err != nil {
		return err
	}
	options.DNS01CheckAuthoritative = !*recursiveOnly
	if len(options.DNS01Nameservers) == 0 {
		options.DNS01Nameservers = dnsutil.RecursiveNameservers
	}

	factory, err := controller.NewContextFactory(ctx, *options)
	if err != nil {
		return err
	}
	base, err := factory.Build()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)

	health := healthz.NewServer(20 * time.Second)
	healthListener, err := server.Listen(ctx, "tcp", healthAddress)
	if err != nil {
		return err
	}
	group.Go(func() error { return health.Start(ctx, healthListener) })

	metricsListener, err := server.Listen(ctx, "tcp", metricsAddress)
	if err != nil {
		return err
	}
	metrics := base.Metrics.NewServer(metricsListener)
	group.Go(func() error {
		if err := metrics.Serve(metricsListener); err != http.ErrServerClosed {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		return metrics.Close()
	})

	identity, err := os.Hostname()
	if err != nil {
		return err
	}
	lock, err := resourcelock.New(resourcelock.LeasesResourceLock, election.namespace, leaseName,
		base.Client.CoreV1(), base.Client.CoordinationV1(),
		resourcelock.ResourceLockConfig{Identity: identity, EventRecorder: base.Recorder})
	if err != nil {
		return err
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:            leaseName,
		Lock:            lock,
		LeaseDuration:   election.leaseDuration,
		RenewDeadline:   election.renewDeadline,
		RetryPeriod:     election.retryPeriod,
		ReleaseOnCancel: true,
		WatchDog:        health.LeaderHealthzAdaptor,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				// Constructing them registers what the informers must watch: first all, then start.
				if err := startControllers(leading, group, factory, *chosen); err != nil {
					group.Go(func() error { return err })
					return
				}
				base.SharedInformerFactory.Start(leading.Done())
				base.KubeSharedInformerFactory.Start(leading.Done())
				base.HTTP01ResourceMetadataInformersFactory.Start(leading.Done())
			},
			OnStoppedLeading: func() { logf.FromContext(ctx).Info("no longer the leader") },
		},
	})
	if err != nil {
		return err
	}
	group.Go(func() error {
		elector.Run(ctx)
		return context.Canceled // whoever loses the lease ends and is started again
	})
	return group.Wait()
}

// startControllers runs the chosen ones of all known controllers in the group.
func startControllers(ctx context.Context, group *errgroup.Group, factory *controller.ContextFactory, chosen []string) error {
	for name, construct := range controller.Known() {
		wanted := slices.Contains(chosen, "*") || slices.Contains(chosen, name)
		if !wanted || slices.Contains(chosen, "-"+name) {
			continue
		}
		reconciler, err := construct(factory)
		if err != nil {
			return err
		}
		group.Go(func() error { return reconciler.Run(workers, ctx) })
	}
	return nil
}
