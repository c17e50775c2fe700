// What owners say to a connection beside its public methods: symbols, which no user's code comes upon.

/** The owner's side of opening a connection: runs `onConnect`, then lets messages through. */
export const kOpen = Symbol('open')
/** The worker is leaving: say goodbye, if the protocol has one. */
export const kDrain = Symbol('drain')
/** The worker is leaving: finish the work in flight, then half-close. */
export const kLeave = Symbol('leave')
/** Leave when what is received next has been answered: then nothing of the peer's is on its way, if it waits for answers. */
export const kLastCall = Symbol('last call')
/** Neither leaving nor closing. */
export const kIsStaying = Symbol('is staying')
/** The worker's time is nearly up: `signal` aborts. */
export const kAbort = Symbol('abort')
/** For how long nothing was received and nothing was at work here, ms; 0 while something is. */
export const kQuietFor = Symbol('quiet for')
/** What is sent to it has somewhere to go. */
export const kTakes = Symbol('takes')
/** Its protocol's goodbye is spread over the drain. */
export const kIsLongLived = Symbol('is long-lived')
/** Its handshake is not over: what asks for it may be on its way. */
export const kIsOpening = Symbol('is opening')

/** A client's connection: from nothing, or from its end, to a new beginning. */
export const kReset = Symbol('reset')
/** A client's connection begins to be made. */
export const kConnect = Symbol('connect')
/** A client's connection is made. */
export const kConnected = Symbol('connected')
/** A client's connection could not be made. */
export const kConnectFailed = Symbol('connect failed')
/** The send buffer has reached its bound. */
export const kFull = Symbol('full')
/** What it runs on: `ssl` is TCP under TLS. */
export const kTransport = Symbol('transport')
/** A message is not taken. */
export const kRefuse = Symbol('refuse')
/** Goes on under TLS. */
export const kSecure = Symbol('secure')

/** Of a pipe both ways: what comes in at the other side has come to its end. */
export const kShut = Symbol('shut')
/** Leaves this process, to go on in another one. */
export const kHandOver = Symbol('hand over')
/** The owner's side of taking over what another process has handed over. */
export const kTakeOver = Symbol('take over')
