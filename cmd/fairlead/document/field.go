package document

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	logs "k8s.io/component-base/logs/api/v1"
)

// A Field is one value in a document that can be written on a command line.
type Field struct{ value reflect.Value }

// Find returns the field of document, a pointer to one, at a path of JSON names such as conntrack.maxPerCore.
func Find(document any, path string) (Field, error) {
	v := reflect.ValueOf(document).Elem()
	for name := range strings.SplitSeq(path, ".") {
		if v.Kind() != reflect.Struct {
			return Field{}, fmt.Errorf("%s: nothing is below %s", path, v.Type())
		}
		next, ok := member(v, name)
		if !ok {
			return Field{}, fmt.Errorf("%s: no %q in %s", path, name, v.Type())
		}
		v = next
	}
	return Field{v}, nil
}

// member returns the field of a struct, or of one inlined in it, that has a name in JSON.
func member(v reflect.Value, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		tag, inline := jsonName(v.Type().Field(i))
		if inline {
			if f, ok := member(v.Field(i), name); ok {
				return f, true
			}
		} else if tag == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func jsonName(f reflect.StructField) (name string, inline bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	return name, f.Anonymous && name == ""
}

// Paths returns the path of every field of document, a pointer to one, in their order, without apiVersion and kind.
func Paths(document any) []string {
	return slices.DeleteFunc(paths(reflect.TypeOf(document).Elem(), ""), func(p string) bool {
		return p == "apiVersion" || p == "kind"
	})
}

func paths(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, inline := jsonName(f)
		switch {
		case inline:
			out = append(out, paths(f.Type, prefix)...)
		case f.Type.Kind() == reflect.Struct && !leaf(f.Type):
			out = append(out, paths(f.Type, prefix+name+".")...)
		default:
			out = append(out, prefix+name)
		}
	}
	return out
}

// leaf reports whether a struct is written as one value.
func leaf(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[metav1.Duration](), reflect.TypeFor[logs.TimeOrMetaDuration](), reflect.TypeFor[resource.QuantityValue]():
		return true
	default:
		return false
	}
}

// Given reports whether the document says something here: in both kinds of document, null and what is empty mean the
// default, and so do 0 and 0s where there is no pointer.
func (f Field) Given() bool {
	v := f.value
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() > 0
	}
	if q, ok := v.Interface().(resource.QuantityValue); ok {
		return !q.IsZero()
	}
	if d, ok := v.Interface().(logs.TimeOrMetaDuration); ok {
		return d.Duration.Duration != 0
	}
	return !v.IsZero()
}

// List returns the value of a list of strings, and false if it is none.
func (f Field) List() ([]string, bool) {
	list, ok := f.value.Interface().([]string)
	return list, ok
}

// Text returns the value as it is written on a command line; null is empty.
func (f Field) Text() string {
	v := f.value
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case metav1.Duration:
		return x.Duration.String()
	case logs.TimeOrMetaDuration:
		return x.Duration.Duration.String()
	case resource.QuantityValue:
		return x.String()
	case logs.VModuleConfiguration:
		return logs.VModuleConfigurationPflag(&x).String()
	case map[string]bool:
		var out []string
		for _, k := range slices.Sorted(maps.Keys(x)) {
			out = append(out, k+"="+strconv.FormatBool(x[k]))
		}
		return strings.Join(out, ",")
	case []string:
		return strings.Join(x, ",")
	default:
		return fmt.Sprint(x)
	}
}

// Set is the inverse of Text. A list is split at commas; SetList takes one as it is.
func (f Field) Set(text string) error {
	v := f.value
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch x := v.Addr().Interface().(type) {
	case *metav1.Duration:
		return setDuration(&x.Duration, text)
	case *logs.TimeOrMetaDuration:
		x.SerializeAsString = true
		return setDuration(&x.Duration.Duration, text)
	case *resource.QuantityValue:
		return x.Set(text)
	case *logs.VModuleConfiguration:
		*x = nil
		return logs.VModuleConfigurationPflag(x).Set(text)
	case *map[string]bool:
		return setMap(x, text)
	case *[]string:
		*x = nil
		if text != "" {
			*x = strings.Split(text, ",")
		}
		return nil
	}
	return setScalar(v, text)
}

// SetList sets a list of strings.
func (f Field) SetList(list []string) error {
	x, ok := f.value.Addr().Interface().(*[]string)
	if !ok {
		return fmt.Errorf("%s is not a list", f.value.Type())
	}
	*x = slices.Clone(list)
	return nil
}

func setDuration(to *time.Duration, text string) (err error) {
	*to, err = time.ParseDuration(text)
	return err
}

func setMap(to *map[string]bool, text string) error {
	*to = make(map[string]bool)
	for item := range strings.SplitSeq(text, ",") {
		if item == "" {
			continue
		}
		k, v, _ := strings.Cut(item, "=")
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is not NAME=true or NAME=false", item)
		}
		(*to)[k] = b
	}
	return nil
}

func setScalar(v reflect.Value, text string) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return err
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return err
		}
		v.SetInt(n)
	case reflect.Uint32:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return err
		}
		v.SetUint(n)
	case reflect.Float32:
		n, err := strconv.ParseFloat(text, 32)
		if err != nil {
			return err
		}
		v.SetFloat(n)
	default:
		return fmt.Errorf("a %s cannot be given as text", v.Type())
	}
	return nil
}
