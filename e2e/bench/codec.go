//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// numCodecs is how many encodings the API server speaks.
const numCodecs = 2

// codec is one of the encodings of the API. The objects given to it must name
// their own kind: it does not convert.
type codec struct {
	index int // into revision.encoded
	info  runtime.SerializerInfo
}

// encoding caches the bytes of an object, since every trial sends the same ones.
type encoding struct {
	once sync.Once
	data []byte
	err  error
}

// newCodecs returns protobuf and JSON, in that order.
func newCodecs() ([numCodecs]codec, error) {
	var codecs [numCodecs]codec
	for i, mediaType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), mediaType)
		if !ok || info.StreamSerializer == nil {
			return codecs, fmt.Errorf("client-go has no streaming serializer for %s", mediaType)
		}
		codecs[i] = codec{index: i, info: info}
	}
	return codecs, nil
}

// negotiate picks the first encoding in an Accept header that is spoken here;
// JSON if it names none. Transformed objects ("as=Table") are not to be had.
func negotiate(codecs [numCodecs]codec, accept string) (codec, bool) {
	if accept == "" {
		return codecs[numCodecs-1], true
	}
	for part := range strings.SplitSeq(accept, ",") {
		mediaType, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || params["as"] != "" {
			continue
		}
		if mediaType == "*/*" || mediaType == "application/*" {
			return codecs[numCodecs-1], true
		}
		for _, c := range codecs {
			if c.info.MediaType == mediaType {
				return c, true
			}
		}
	}
	return codec{}, false
}

func (c codec) contentType() string { return c.info.MediaType }

// streamType is the content type of a watch.
func (c codec) streamType() string {
	if c.info.MediaType == runtime.ContentTypeProtobuf {
		return c.info.MediaType + ";stream=watch"
	}
	return c.info.MediaType
}

// bytes returns the encoded object.
func (r *revision) bytes(c codec) ([]byte, error) {
	e := &r.encoded[c.index]
	e.once.Do(func() { e.data, e.err = c.encode(r.object) })
	return e.data, e.err
}

func (c codec) encode(o runtime.Object) ([]byte, error) {
	var buf bytes.Buffer
	if err := c.info.Serializer.Encode(o, &buf); err != nil {
		return nil, fmt.Errorf("encode %T as %s: %w", o, c.info.MediaType, err)
	}
	return buf.Bytes(), nil
}

// eventWriter writes the frames of a watch.
type eventWriter struct {
	codec  codec
	stream streaming.Encoder
}

func (c codec) newEventWriter(w io.Writer) eventWriter {
	s := c.info.StreamSerializer
	return eventWriter{codec: c, stream: streaming.NewEncoder(s.Framer.NewFrameWriter(w), s.Serializer)}
}

func (w eventWriter) write(event watch.EventType, encoded []byte) error {
	return w.stream.Encode(&metav1.WatchEvent{
		Type: string(event), Object: runtime.RawExtension{Raw: encoded},
	})
}

func (w eventWriter) writeRevision(event watch.EventType, r *revision) error {
	data, err := r.bytes(w.codec)
	if err != nil {
		return err
	}
	return w.write(event, data)
}
