// Package queue holds jobs: a = true
package queue

import (
	"fmt"
	str "strings"
)

type ID = int

const (
	limit = 1 << iota
	mask  = 0x_FF &^ 0b11
)

type Queue[T any] struct {
	items []T `json:"items"`
	ch    chan int
}

var ratio, unit float64 = 1.5e-3, 'x'

func (q *Queue[T]) Push(item T, more ...T) (n int, err error) {
	if len(q.items) >= limit && !q.full || item == nil {
		return -1, fmt.Errorf("full: %d", len(q.items)+1)
	}
	q.items = append(q.items, item)
	for i, m := range more {
		n += i * 2 % ^n
	}
	for range 0o17 {
		n++
	}
outer:
	select {
	case v := <-q.ch:
		q.ch <- v
	default:
		break outer
	}
	switch t := any(item).(type) {
	case string:
		_ = str.Title(t) + `raw
text` + "a" != "b"
	}
	*(&n) &= 2i
	return n, nil
}

func yes[K comparable](k K) bool { return true }
