package main

import (
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/neo4j/neo4j-go-driver/v6/neo4j"
)

const (
	towns    = 2000
	starts   = 10
	sessions = 16
	rounds   = 5
	hops     = "MATCH (a:ThroughputTown {id: $id})-->()-->()-->(b) RETURN count(b) AS paths, avg(b.size) AS size"
)

// throughput compares how many reads over three hops 16 sessions get answered in a second, at each address in turn.
func throughput(addresses []string) {
	drivers := make([]neo4j.Driver, len(addresses))
	for i, address := range addresses {
		drivers[i] = must(neo4j.NewDriver(address, owner()))
		defer drivers[i].Close(ctx)
	}
	write := func(text string) { must(neo4j.ExecuteQuery(ctx, drivers[0], text, nil, neo4j.EagerResultTransformer)) }
	forget := func() { write("MATCH (n:ThroughputTown) DETACH DELETE n") }
	forget()
	defer forget()
	write(fmt.Sprintf("UNWIND range(0, %d) AS id CREATE (:ThroughputTown {id: id, size: id %% 97})", towns-1))
	write("CREATE INDEX throughput_town IF NOT EXISTS FOR (n:ThroughputTown) ON (n.id)")
	defer write("DROP INDEX throughput_town IF EXISTS")
	write("CALL db.awaitIndexes(60)")
	write(fmt.Sprintf(`MATCH (a:ThroughputTown) UNWIND [7, 77, 777, 1234, 1777] AS step
		MATCH (b:ThroughputTown {id: (a.id * 3 + step) %% %d}) CREATE (a)-[:ROAD]->(b)`, towns))
	rates := make([][]float64, len(addresses))
	for round := -1; round < rounds; round++ {
		for i, driver := range drivers {
			rate := reads(driver, 3*time.Second)
			// The first round is for compilers and caches.
			if round >= 0 {
				rates[i] = append(rates[i], rate)
			}
		}
	}
	fmt.Printf("| address | reads/s, median of %d rounds in turn | times the first |\n|---|---:|---:|\n", rounds)
	for i, address := range addresses {
		sort.Float64s(rates[i])
		fmt.Printf("| %s | %.0f | %.1f |\n", address, rates[i][rounds/2], rates[i][rounds/2]/rates[0][rounds/2])
	}
}

func reads(driver neo4j.Driver, limit time.Duration) float64 {
	var all sync.WaitGroup
	counts := make([]int, sessions)
	begun := time.Now()
	for own := range counts {
		all.Add(1)
		go func() {
			defer all.Done()
			session := driver.NewSession(ctx, neo4j.SessionConfig{AccessMode: neo4j.AccessModeRead})
			defer session.Close(ctx)
			for nth := own; time.Since(begun) < limit; nth++ {
				result := must(session.Run(ctx, hops, map[string]any{"id": 1 + nth%starts*151}))
				must(result.Single(ctx))
				counts[own]++
			}
		}()
	}
	all.Wait()
	sum := 0
	for _, count := range counts {
		sum += count
	}
	return float64(sum) / time.Since(begun).Seconds()
}
