package main

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// What is looked at again, how long after something has happened to it, and how often anyway: a file may be where
// nobody tells of changes, behind a link or in another folder.
const (
	settleSettings = 500 * time.Millisecond
	repeatSettings = 30 * time.Second
)

// errSettingsChanged ends a process whose settings are others now. It is an error so that whoever starts us does so again.
var errSettingsChanged = errors.New("the configuration has changed; starting again with it")

// followSettings ends the process when its configuration files have come to mean something else, and that is valid.
func (p *process) followSettings(ctx context.Context) {
	if p.settled == nil || !p.flags.fromFile() {
		return
	}
	p.start(ctx, p.watchSettings)
}

// watchSettings returns nil when ctx is done, and errSettingsChanged before.
func (p *process) watchSettings(ctx context.Context) error {
	before, err := p.settled.loader.text()
	if err != nil {
		return err
	}
	var complaint string
	look := func() error {
		switch after, err := p.reload(); {
		case err != nil && err.Error() != complaint:
			complaint = err.Error()
			p.log.Error("the configuration has changed and is wrong; what is in force stays", "err", err)
			p.reporter.node(p.settled.node, p.settled.info, "InvalidConfiguration", err.Error())
		case err == nil && !bytes.Equal(before, after):
			return errSettingsChanged
		case err == nil && complaint != "":
			complaint = ""
			p.log.Info("the configuration is valid again, and what is in force")
		}
		return nil
	}
	return eachChange(ctx, p.flags.files(), p.warnWatch, look)
}

// reload returns the text of the settings as the files have them now.
func (p *process) reload() ([]byte, error) {
	l, err := p.settled.again()
	if err != nil {
		return nil, err
	}
	return l.text()
}

// text returns all that is in force as documents.
func (l *loader) text() ([]byte, error) {
	set, err := l.effective()
	if err != nil {
		return nil, err
	}
	return set.YAML()
}

// files returns the configuration files there are.
func (f *flags) files() []string {
	return slices.DeleteFunc([]string{f.Files.Config, f.Files.OwnConfig}, func(s string) bool { return s == "" })
}

func (p *process) warnWatch(err error) {
	p.log.Warn("cannot watch the configuration; looking at it from time to time", "every", repeatSettings, "err", err)
}

// eachChange calls look some time after anything has happened in the folders of files, in which kubelet swaps a link
// when a ConfigMap has changed, and every now and then. It returns the error of look, or nil when ctx is done. Trouble
// with watching is told once.
func eachChange(ctx context.Context, files []string, trouble func(error), look func() error) error {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		trouble(err)
		notify = &fsnotify.Watcher{} // whose channels are silent
	} else {
		defer notify.Close()
		for _, f := range files {
			err = errors.Join(err, notify.Add(filepath.Dir(f)))
		}
		if err != nil {
			trouble(err)
		}
	}
	settle := time.NewTimer(settleSettings) // something may have happened before
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notify.Events:
			settle.Reset(settleSettings)
			continue
		case err := <-notify.Errors:
			trouble(err)
			settle.Reset(settleSettings)
			continue
		case <-settle.C:
		}
		if err := look(); err != nil {
			return err
		}
		settle.Reset(repeatSettings)
	}
}
