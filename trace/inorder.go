package trace

import "sync"

// inOrder calls work(0) to work(n-1), several at once, and each with their results
// in order until it returns false. All calls have ended when it returns.
func inOrder[T any](n, several int, work func(i int) T, each func(i int, result T) bool) {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := make(chan struct{})
	defer close(stop)
	queue := make(chan chan T, several-1)
	wg.Go(func() {
		defer close(queue)
		for i := range n {
			result := make(chan T, 1)
			select {
			case queue <- result:
			case <-stop:
				return
			}
			wg.Go(func() { result <- work(i) })
		}
	})
	i := 0
	for result := range queue {
		if !each(i, <-result) {
			return
		}
		i++
	}
}
