// A network between clients and a server: it can be cut, and hold what the server says.

import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { once } from "node:events";

/** Forwards connections to a port of this machine. */
export class Pipe {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #answers = new Set<Socket>();
  /** Text of a client after which answers are held. */
  #trigger: string | undefined;
  #isHeld = false;
  #numConnections = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async open(port: number): Promise<Pipe> {
    const server = createServer();
    const pipe = new Pipe(server);
    server.on("connection", (client) => pipe.#join(client, connect(port, "127.0.0.1")));
    await once(server.listen(0, "127.0.0.1"), "listening");
    return pipe;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Whether answers are held. */
  get isHeld(): boolean {
    return this.#isHeld;
  }

  get numConnections(): number {
    return this.#numConnections;
  }

  /** Holds the server's answers from now on, or from when a client has said something. */
  hold(trigger?: string): void {
    this.#trigger = trigger;
    if (trigger === undefined) this.#stop();
  }

  /** Lets go of all answers. */
  release(): void {
    this.#trigger = undefined;
    this.#isHeld = false;
    for (const socket of this.#answers) socket.resume();
  }

  /** Ends all connections. */
  cut(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  close(): void {
    this.#server.close();
    this.cut();
  }

  #stop(): void {
    this.#isHeld = true;
    for (const socket of this.#answers) socket.pause();
  }

  #join(client: Socket, answers: Socket): void {
    this.#numConnections++;
    this.#answers.add(answers);
    for (const [socket, other] of [
      [client, answers],
      [answers, client],
    ] as const) {
      this.#sockets.add(socket);
      socket.on("error", () => undefined);
      socket.on("close", () => {
        other.destroy();
        this.#sockets.delete(socket);
        this.#answers.delete(socket);
      });
    }
    client.on("data", (data) => {
      if (this.#trigger !== undefined && data.toString("latin1").toLowerCase().includes(this.#trigger)) this.#stop();
      answers.write(data);
    });
    answers.on("data", (data) => client.write(data));
    if (this.#isHeld) answers.pause();
  }
}
