// Calls from an owner to its connection. They are symbols so that user code does not meet them.

/** The owner's side of opening a connection: runs `onConnect`, then lets messages through. */
export const kOpen = Symbol('open')
/** The worker is leaving: say goodbye, if the protocol has one. */
export const kDrain = Symbol('drain')
/** The worker is leaving: finish the work in flight, then half-close. */
export const kLeave = Symbol('leave')
/**
 * Leave after the next received message has been answered: a peer that waits for answers then has nothing on its way.
 */
export const kLastCall = Symbol('last call')
/** Its peer should connect anew: it ends with its next answer, if the protocol has a way to say so. */
export const kRenew = Symbol('renew')
/** Neither leaving nor closing. */
export const kIsStaying = Symbol('is staying')
/** The worker's time is nearly up: `signal` aborts. */
export const kAbort = Symbol('abort')
/** How long nothing was received or sent and no work was done, in ms; 0 while there is work. */
export const kQuietFor = Symbol('quiet for')
/** Closed, and not about to connect again. */
export const kIsOver = Symbol('is over')
/** Whether it is open, and a message sent to it, which nobody has asked for, has somewhere to go. */
export const kTakes = Symbol('takes')
/** Whether its protocol's goodbye is spread over the drain. */
export const kIsLongLived = Symbol('is long-lived')
/** Whether its handshake is not over yet: the request for it may be on its way. */
export const kIsOpening = Symbol('is opening')

/** Resets a client's connection to its initial state, after its end or before its start. */
export const kReset = Symbol('reset')
/** A client starts to connect. */
export const kConnect = Symbol('connect')
/** A client has connected. */
export const kConnected = Symbol('connected')
/** A client could not connect. */
export const kConnectFailed = Symbol('connect failed')
/** Takes a message that cannot be sent yet; it waits. */
export const kKeep = Symbol('keep')
/** What waits is not to be sent: it is dropped without a word. */
export const kForget = Symbol('forget')
/** What waits will never be sent: it is refused, and reported. */
export const kLose = Symbol('lose')
/** Whether messages wait until they can be sent. */
export const kHasWaiting = Symbol('has waiting')
/** Whether this many bytes are queued that the kernel does not take. */
export const kHasQueued = Symbol('has queued')
/** Sends a message. Returns whether it was accepted: `send` also returns false for one that fills the buffer. */
export const kOffer = Symbol('offer')
/** The connection's transport; `ssl` is TCP under TLS. */
export const kTransport = Symbol('transport')
/** Switches to TLS. */
export const kSecure = Symbol('secure')

/** It takes no messages for a while: its send buffer has reached its limit, or TLS is being negotiated. */
export const kIsFull = Symbol('is full')
/** How many bytes its peer has acknowledged. Reading this takes a system call. */
export const kTaken = Symbol('taken')
/** The destination of its pipe is full: it delivers nothing. */
export const kHold = Symbol('hold')
/** The destination has room again, or is another one. */
export const kRelease = Symbol('release')
/** For a pipe in both directions: the other side has reached the end of its input. */
export const kShut = Symbol('shut')
/** A client that has closed will not connect again: what was piped for its next life ends. */
export const kEndPipes = Symbol('end pipes')
/** Leaves this process, to continue in another one. The reload that uses this comes later. */
export const kHandOver = Symbol('hand over')
/** Takes over what another process has handed over. The reload that uses this comes later. */
export const kTakeOver = Symbol('take over')
