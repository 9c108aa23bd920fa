// SPDX-License-Identifier: GPL-3.0-or-later
// Copyright: the kubecozy authors

package main

import (
	"context"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/cert-manager/cert-manager/pkg/controller/cainjector"
	"github.com/cert-manager/cert-manager/pkg/util"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

func runCAInjector(ctx context.Context, flags *pflag.FlagSet) error {
	var election leaderElection
	election.addFlags(flags)
	metricsAddress := flags.String("metrics-listen-address", ":9402", "where metrics are served")
	fromCertificates := flags.Bool("enable-certificates-data-source", true, "inject CAs of Certificates")
	if err := parseCommon(flags); err != nil {
		return err
	}
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, apiextensions.AddToScheme, apiregistration.AddToScheme, cmapi.AddToScheme,
	} {
		if err := add(known); err != nil {
			return err
		}
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	manager, err := ctrl.NewManager(util.RestConfigWithUserAgent(config, "cainjector"), ctrl.Options{
		Scheme:                        known,
		LeaderElection:                true,
		LeaderElectionID:              "cert-manager-cainjector-leader-election", // the chart's RBAC names it
		LeaderElectionNamespace:       election.namespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &election.leaseDuration,
		RenewDeadline:                 &election.renewDeadline,
		RetryPeriod:                   &election.retryPeriod,
		Metrics:                       metricsserver.Options{BindAddress: *metricsAddress},
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
	})
	if err != nil {
		return err
	}
	err = cainjector.RegisterAllInjectors(ctx, manager, cainjector.SetupOptions{
		EnableCertificatesDataSource: *fromCertificates,
		EnabledReconcilersFor: map[string]bool{
			cainjector.APIServiceName:                     true,
			cainjector.CustomResourceDefinitionName:       true,
			cainjector.MutatingWebhookConfigurationName:   true,
			cainjector.ValidatingWebhookConfigurationName: true,
		},
	})
	if err != nil {
		return err
	}
	return manager.Start(ctx)
}
