// Publishes events with Centrifuge, which keeps the history of each channel in a stream of Redis.
//
//	go run . ADDRESS EVENTS AT_ONCE RATE
package main

import (
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/centrifugal/centrifuge"
)

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	events, atOnce, rate := number(os.Args[2]), number(os.Args[3]), number(os.Args[4])
	node, err := centrifuge.New(centrifuge.Config{})
	if err != nil {
		log.Fatal(err)
	}
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: os.Args[1]})
	if err != nil {
		log.Fatal(err)
	}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: []*centrifuge.RedisShard{shard}})
	if err != nil {
		log.Fatal(err)
	}
	node.SetBroker(broker)
	if err := node.Run(); err != nil {
		log.Fatal(err)
	}
	publish := func(i int) {
		data := fmt.Sprintf(`{"type":"progress","data":{"n":%d,"p":"%s"}}`, i, strings.Repeat("x", 150))
		_, err := node.Publish(fmt.Sprintf("bench:%d", i%2000), []byte(data), centrifuge.WithHistory(100, 24*time.Hour))
		if err != nil {
			log.Fatal(err)
		}
	}
	began := time.Now()
	for i := 0; i < events; i += atOnce {
		if atOnce == 1 {
			time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / time.Duration(rate))))
			publish(i)
			continue
		}
		var all sync.WaitGroup
		for j := i; j < i+atOnce; j++ {
			all.Add(1)
			go func() { defer all.Done(); publish(j) }()
		}
		all.Wait()
	}
}
