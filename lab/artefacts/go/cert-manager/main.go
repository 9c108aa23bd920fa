// SPDX-License-Identifier: GPL-3.0-or-later
// Copyright: the kubecozy authors

// Command lab is cert-manager's five programs in one: the name it is started by says which. Upstream's cmd/* are
// modules of their own that no module proxy offers; the packages they are made of are all in the root module, and
// this module's path lies below it so that its internal packages may be used too.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cert-manager/cert-manager/pkg/issuer/acme/http/solver"
	logf "github.com/cert-manager/cert-manager/pkg/logs"
	"github.com/cert-manager/cert-manager/pkg/util/cmapichecker"
	utilfeature "github.com/cert-manager/cert-manager/pkg/util/feature"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/wait"
	logsapi "k8s.io/component-base/logs/api/v1"
	ctrl "sigs.k8s.io/controller-runtime"
)

// A program adds its flags to the set, parses the command line and works until the context ends.
type program func(context.Context, *pflag.FlagSet) error

var programs = map[string]program{
	"acmesolver":      runACMESolver,
	"cainjector":      runCAInjector,
	"controller":      runController,
	"startupapicheck": runStartupAPICheck,
	"webhook":         runWebhook,
}

func main() {
	name := filepath.Base(os.Args[0])
	run, known := programs[name]
	if !known {
		fmt.Fprintf(os.Stderr, "%s is no program of cert-manager; start this as controller, webhook or another\n", name)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	logf.InitLogs()
	ctrl.SetLogger(logf.Log)
	err := run(logf.NewContext(ctx, logf.Log, name), pflag.NewFlagSet(name, pflag.ExitOnError))
	failed := err != nil && ctx.Err() == nil
	if failed {
		logf.Log.Error(err, "ended", "program", name)
	}
	logf.FlushLogs()
	if failed {
		os.Exit(1)
	}
}

// parseCommon adds and parses the flags that most programs share: logging and feature gates.
func parseCommon(flags *pflag.FlagSet) error {
	logging := logsapi.NewLoggingConfiguration()
	logf.AddFlags(logging, flags)
	gates := flags.String("feature-gates", "", "feature gates, as name=true|false,...")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	if err := logf.ValidateAndApply(logging); err != nil {
		return err
	}
	return utilfeature.DefaultMutableFeatureGate.Set(*gates)
}

// leaderElection holds the settings of one program's lease.
type leaderElection struct {
	namespace     string
	leaseDuration time.Duration
	renewDeadline time.Duration
	retryPeriod   time.Duration
}

func (l *leaderElection) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&l.namespace, "leader-election-namespace", "kube-system", "namespace of the lease")
	flags.DurationVar(&l.leaseDuration, "leader-election-lease-duration", 60*time.Second, "how long a lease lasts")
	flags.DurationVar(&l.renewDeadline, "leader-election-renew-deadline", 40*time.Second, "when a leader gives up")
	flags.DurationVar(&l.retryPeriod, "leader-election-retry-period", 15*time.Second, "time between two attempts")
}

// runStartupAPICheck is the chart's post-install hook, started as "check api --wait=1m -v".
func runStartupAPICheck(ctx context.Context, flags *pflag.FlagSet) error {
	limit := flags.Duration("wait", 0, "how long to wait for the API")
	flags.BoolP("verbose", "v", false, "say more (a switch here, a level in the other programs)")
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	checker, err := cmapichecker.New(config, os.Getenv("POD_NAMESPACE"))
	if err != nil {
		return err
	}
	var last error
	err = wait.PollUntilContextTimeout(ctx, 2*time.Second, *limit, true, func(ctx context.Context) (bool, error) {
		if last = checker.Check(ctx); last != nil {
			fmt.Println("Not ready:", last)
		}
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, last)
	}
	fmt.Println("The cert-manager API is ready")
	return nil
}

// runACMESolver answers one HTTP-01 challenge; the controller makes its Pod and its arguments.
func runACMESolver(ctx context.Context, flags *pflag.FlagSet) error {
	var server solver.HTTP01Solver
	flags.IntVar(&server.ListenPort, "listen-port", 8089, "port to answer on")
	flags.StringVar(&server.Domain, "domain", "", "name that is asked for")
	flags.StringVar(&server.Token, "token", "", "token of the challenge")
	flags.StringVar(&server.Key, "key", "", "key authorisation to answer with")
	if err := parseCommon(flags); err != nil {
		return err
	}
	go func() {
		<-ctx.Done()
		_ = server.Shutdown(context.Background())
	}()
	return server.Listen(logf.FromContext(ctx))
}
