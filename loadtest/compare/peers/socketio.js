// A broadcaster on Socket.IO, with rooms, as its documentation shows it: node socketio.js PORT
const http = require("node:http");
const { Server } = require("socket.io");

const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (piece) => (body += piece));
  request.on("end", () => {
    io.to(new URL(request.url, "http://localhost").searchParams.get("room")).emit("event", JSON.parse(body));
    response.end();
  });
});
const io = new Server(server, { transports: ["websocket"], serveClient: false });
io.on("connection", (socket) => socket.join(socket.handshake.query.room));
server.listen(Number(process.argv[2]), "127.0.0.1", 4096);
