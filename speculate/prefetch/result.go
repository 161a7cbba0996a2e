package prefetch

// Counts are numbers of experts. Requests = Hits + Late + Misses + Host, Prefetched =
// Used + Wasted, Transfers = Misses + Prefetched.
type Counts struct {
	Requests int64 `json:"requests"` // choices of an expert by a token
	Hits     int64 `json:"hits"`     // resident when needed
	Late     int64 `json:"late"`     // being prefetched when needed
	Misses   int64 `json:"misses"`   // copied on demand
	Host     int64 `json:"host"`     // computed by the host from memory of its own
	// Cold are the first requests for an expert in the document, which miss in any
	// cache without a prefetcher.
	Cold       int64 `json:"cold"`
	Prefetched int64 `json:"prefetched"` // copied ahead
	Used       int64 `json:"used"`       // of those, requested before they were evicted
	Wasted     int64 `json:"wasted"`     // the others
	// Dropped prefetches were queued and not started: the request came before, the
	// layer passed, or there was no room.
	Dropped      int64   `json:"dropped"`
	Transfers    int64   `json:"transfers"`
	StallSeconds float64 `json:"stall_seconds"` // time that layers waited for experts
}

// HitRate is the share of requests that were hits, 0 without requests.
func (c Counts) HitRate() float64 { return ratio(float64(c.Hits), float64(c.Requests)) }

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (c *Counts) add(o Counts) {
	c.Requests += o.Requests
	c.Hits += o.Hits
	c.Late += o.Late
	c.Misses += o.Misses
	c.Host += o.Host
	c.Cold += o.Cold
	c.Prefetched += o.Prefetched
	c.Used += o.Used
	c.Wasted += o.Wasted
	c.Dropped += o.Dropped
	c.Transfers += o.Transfers
}

// Event is an interval of time on the compute unit or on the channel.
type Event struct {
	Document string `json:"document"`
	Token    int    `json:"token"`  // index in the document of the token that it is for
	Layer    int    `json:"layer"`  // the layer that it is for
	Expert   int    `json:"expert"` // -1: none
	Kind     Kind   `json:"kind"`
	// Start and End are seconds from the simulation's start.
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

// Kind is the kind of an event.
type Kind string

const (
	// Compute is a layer being computed.
	Compute Kind = "compute"
	// Stall is a layer that waits for an expert.
	Stall Kind = "stall"
	// Demand is an expert being copied that a layer waits for.
	Demand Kind = "demand"
	// Prefetch is an expert being copied ahead.
	Prefetch Kind = "prefetch"
	// Predict is predictors at work, while nothing is computed.
	Predict Kind = "predict"
	// Host is an expert being computed by the host.
	Host Kind = "host"
)

// Result is the result of a simulation. HitRate and Resident are in [0,1].
type Result struct {
	Policy    Policy `json:"policy"`
	Predictor string `json:"predictor,omitempty"`
	Horizon   string `json:"horizon,omitempty"`
	Prefetch  int    `json:"prefetch,omitempty"` // predicted experts of a layer
	Capacity  int    `json:"capacity"`           // of all layers, or of each with PerLayer
	PerLayer  bool   `json:"per_layer,omitempty"`
	// Resident is the share of all L*E experts that the cache holds.
	Resident  float64 `json:"resident"`
	Documents int     `json:"documents"`
	Tokens    int     `json:"tokens"` // those of encoders included
	Total     Counts  `json:"total"`
	// Layers are the counts by the layer that an expert belongs to, [L].
	Layers            []Counts `json:"layers"`
	HitRate           float64  `json:"hit_rate"`
	TransfersPerToken float64  `json:"transfers_per_token"`
	StallPerToken     float64  `json:"stall_seconds_per_token"`
	// Seconds are those of all, DecisionSeconds those of predictions.
	Seconds         float64 `json:"seconds"`
	DecisionSeconds float64 `json:"decision_seconds,omitempty"`
	TokensPerSecond float64 `json:"tokens_per_second"` // 0 if no time passed
	// Events are the first Config.Events in the order of the simulation, which is
	// not always that of their start.
	Events []Event `json:"events,omitempty"`
}

// Point is the hit rate at one size of the cache.
type Point struct {
	Policy   Policy `json:"policy"`
	Capacity int    `json:"capacity"` // as Config.Capacity
	// HitRate is the share of choices whose expert was resident when needed.
	HitRate float64 `json:"hit_rate"`
	// TransfersPerToken is the mean number of experts copied for a token.
	TransfersPerToken float64 `json:"transfers_per_token"`
	Total             Counts  `json:"total"`
}
