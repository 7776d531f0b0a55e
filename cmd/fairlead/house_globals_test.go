package main

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// TestHouseGlobals refuses package state: it makes two of a thing in one process
// impossible, and tests depend on each other.
func TestHouseGlobals(t *testing.T) {
	byDir := map[string][]*goFile{}
	for _, f := range repo(t) {
		if !f.test() {
			byDir[f.dir] = append(byDir[f.dir], f)
		}
	}
	for dir, files := range byDir {
		written := writtenNames(files)
		for _, f := range files {
			for _, d := range f.ast.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					t.Errorf("%s: func init: what happens at start is written down in main, in order", f.at(fn))
				}
			}
			for _, v := range packageVars(f) {
				switch {
				case v.spec.Values == nil && !v.embed && !(dir == "cmd/fairlead" && v.name.Name == "version"):
					t.Errorf("%s: var %s is package state: put it where it belongs and hand it in", f.at(v.name), v.name.Name)
				case written[v.name.Name]:
					t.Errorf("%s: var %s is assigned elsewhere, so it is package state", f.at(v.name), v.name.Name)
				case v.shared():
					t.Errorf("%s: var %s can be changed by whoever sees it: make it a function or an array", f.at(v.name), v.name.Name)
				}
			}
		}
	}
}

// A packageVar is a variable at package level.
type packageVar struct {
	name  *ast.Ident
	spec  *ast.ValueSpec
	value ast.Expr // nil if there is none of its own
	embed bool     // filled by the compiler
}

// shared reports whether the value of v is a map or a slice.
func (v packageVar) shared() bool {
	lit, ok := v.value.(*ast.CompositeLit)
	if !ok {
		return false
	}
	switch typ := lit.Type.(type) {
	case *ast.MapType:
		return true
	case *ast.ArrayType:
		return typ.Len == nil
	}
	return false
}

func packageVars(f *goFile) []packageVar {
	var out []packageVar
	for _, d := range f.ast.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.VAR {
			continue
		}
		embed := decl.Doc != nil && slices.ContainsFunc(decl.Doc.List, func(c *ast.Comment) bool {
			return strings.HasPrefix(c.Text, "//go:embed ")
		})
		for _, s := range decl.Specs {
			spec := s.(*ast.ValueSpec)
			for i, name := range spec.Names {
				if name.Name == "_" {
					continue
				}
				v := packageVar{name: name, spec: spec, embed: embed}
				if i < len(spec.Values) {
					v.value = spec.Values[i]
				}
				out = append(out, v)
			}
		}
	}
	return out
}

// writtenNames returns the names that functions of a package assign to without
// having declared them, or take the address of. Shadowing makes it err on the
// strict side.
func writtenNames(files []*goFile) map[string]bool {
	out := map[string]bool{}
	note := func(e ast.Expr) {
		if id := root(e); id != nil {
			out[id.Name] = true
		}
	}
	for _, f := range files {
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			local := declaredIn(fn)
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.AssignStmt:
					for _, e := range n.Lhs {
						if id := root(e); n.Tok != token.DEFINE && id != nil && !local[id.Name] {
							note(e)
						}
					}
				case *ast.IncDecStmt:
					if id := root(n.X); id != nil && !local[id.Name] {
						note(n.X)
					}
				case *ast.UnaryExpr:
					if id := root(n.X); n.Op == token.AND && id != nil && !local[id.Name] {
						note(n.X)
					}
				}
				return true
			})
		}
	}
	return out
}

// declaredIn returns the names that a function declares.
func declaredIn(fn *ast.FuncDecl) map[string]bool {
	out := map[string]bool{}
	fields := func(list *ast.FieldList) {
		if list == nil {
			return
		}
		for _, f := range list.List {
			for _, n := range f.Names {
				out[n.Name] = true
			}
		}
	}
	fields(fn.Recv)
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncType:
			fields(n.Params)
			fields(n.Results)
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				for _, e := range n.Lhs {
					if id, ok := e.(*ast.Ident); ok {
						out[id.Name] = true
					}
				}
			}
		case *ast.ValueSpec:
			for _, id := range n.Names {
				out[id.Name] = true
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if id, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					out[id.Name] = true
				}
			}
		}
		return true
	})
	return out
}

// root returns the variable at the beginning of x.y[z].
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		default:
			return nil
		}
	}
}
