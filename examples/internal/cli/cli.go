// Package cli holds what the example programs share: parsing of flags, signals,
// exit statuses, and the flags that choose a model and a backend.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit statuses of all programs.
const (
	Done    = 0
	Failed  = 1
	Usage   = 2 // a flag is wrong; nothing was done
	Partial = 3 // done except for what was named on standard error
)

// Streams are a program's standard streams.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Program is a command whose options are in a struct that its flags set.
type Program struct {
	// Name is the program's name in messages.
	Name string
	// Help is printed by -h above the flags.
	Help string
	// Flags defines the flags.
	Flags func(*flag.FlagSet)
	// Check reports flags that cannot be used, before anything is done; may be nil.
	Check func(*flag.FlagSet) error
	// Run does the work. An [Incomplete] error ends the program with [Partial].
	Run func(context.Context, Streams) error
	// Interrupted returns what was kept when the user stopped the program, and
	// how to resume. It is printed after "interrupted; ".
	Interrupted func() string
}

// Incomplete is the error of a program that did its work except for some items,
// each of which it has named on standard error.
type Incomplete struct {
	Omitted int
	What    string // for example "documents"
}

// Error returns how much was omitted.
func (e *Incomplete) Error() string { return fmt.Sprintf("%d %s omitted", e.Omitted, e.What) }

// Main runs the program with the arguments of the process and exits. The first
// interrupt or SIGTERM cancels the context of Run; the second ends the process.
func (p Program) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // restores the signals' default effect
	os.Exit(p.Start(ctx, os.Args[1:], Streams{os.Stdin, os.Stdout, os.Stderr}))
}

// Start runs the program with the arguments and returns its exit status.
func (p Program) Start(ctx context.Context, args []string, s Streams) int {
	say := func(format string, a ...any) {
		fmt.Fprintf(s.Err, p.Name+": "+format+"\n", a...)
	}
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard) // Parse would print all flags after an error
	p.Flags(flags)
	err := flags.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(s.Err, "%s\n\n%s\n\nExit status: 0 done, 1 failed, 2 wrong usage, 3 done except for what was named.\n\nFlags:\n",
			p.Name, strings.TrimSpace(p.Help))
		flags.SetOutput(s.Err)
		flags.PrintDefaults()
		return Done
	}
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err == nil && p.Check != nil {
		err = p.Check(flags)
	}
	// A library's error may begin with the name of its package, which is the
	// program's for some.
	text := func(err error) string { return strings.TrimPrefix(err.Error(), p.Name+": ") }
	if err != nil {
		say("%s (-h lists the flags)", text(err))
		return Usage
	}
	err = p.Run(ctx, s)
	var incomplete *Incomplete
	switch {
	case err == nil:
		return Done
	case errors.As(err, &incomplete):
		say("%v", incomplete)
		return Partial
	case ctx.Err() != nil:
		say("interrupted; %s", p.Interrupted())
	default:
		say("%s", text(err))
	}
	return Failed
}
