//! Words for where, when and how, and for activities.

/// Places and hiding places.
pub const PLACES: &str = "
outdoors | at | do | did | doing
park | in the park | play tag | played tag | playing tag
garden | in the garden | chase butterflies | chased butterflies | chasing butterflies
forest | in the forest | look for mushrooms | looked for mushrooms | looking for mushrooms
beach | on the beach | build sandcastles | built sandcastles | building sandcastles
meadow | in the meadow | pick flowers | picked flowers | picking flowers
river | by the river | skip stones | skipped stones | skipping stones
lake | by the lake | feed the swans | fed the swans | feeding the swans
playground | at the playground | go down the slide | went down the slide | going down the slide
hill | on the hill | roll down the grass | rolled down the grass | rolling down the grass
farm | on the farm | ride the pony | rode the pony | riding the pony
pond | by the pond | catch tadpoles | caught tadpoles | catching tadpoles
orchard | in the orchard | climb the trees | climbed the trees | climbing the trees
stream | by the stream | float paper boats | floated paper boats | floating paper boats
backyard | in the backyard | swing on a tire | swung on a tire | swinging on a tire
schoolyard | in the schoolyard | jump rope | jumped rope | jumping rope
field | in the field | run races | ran races | running races
village square | in the village square | draw with chalk | drew with chalk | drawing with chalk
barn | behind the barn | hide in the hay | hid in the hay | hiding in the hay
harbor | at the harbor | watch the ships | watched the ships | watching the ships
bridge | near the bridge | drop sticks into the water | dropped sticks into the water | dropping sticks into the water
valley | in the valley | shout and hear the echo | shouted and heard the echo | shouting at the echo
windmill | beside the windmill | throw paper planes | threw paper planes | throwing paper planes
lighthouse | below the lighthouse | count the waves | counted the waves | counting the waves
ruin | near the ruin | play knights | played knights | playing knights
vineyard | in the vineyard | sing rounds | sang rounds | singing rounds
quarry | beside the quarry | dig for fossils | dug for fossils | digging for fossils

trip | at | saw | then | did | bought
zoo | at the zoo | a sleepy lion | three dancing bears | fed the goats | a paper tiger
beach | on the beach | a red crab | a ship with white sails | swam in the waves | a pink shell
farm | on the farm | a fat pig | a brand-new calf | drank fresh milk | a jar of honey
museum | in the museum | the bones of a dinosaur | a mummy in a glass box | drew the statues | a postcard
mountains | in the mountains | a proud eagle | a waterfall | slept in a wooden hut | a walking stick
castle | in the castle | a knight in armor | a deep well | climbed the tower | a wooden sword
circus | at the circus | a clown on a ball | an acrobat on a rope | ate popcorn | a red balloon
aquarium | at the aquarium | a shark | a field of jellyfish | touched a starfish | a plush dolphin
city | in the city | a tall glass tower | a street full of music | rode the bus | a tiny brass bell
lake | at the lake | a family of swans | a jumping fish | rowed a boat | a painted paddle
airport | at the airport | a silver jet | a pilot with a blue cap | waved at the planes | a toy helicopter
fair | at the fair | a giant wheel | a man who swallowed fire | won a game of rings | a bag of toffee
island | on the island | a colony of seals | an old lighthouse | looked for pirate gold | a spyglass
train station | at the train station | a black steam engine | a clock with four faces | counted the wagons | a conductor's cap
desert | in the desert | a caravan of camels | a sea of yellow sand | rode a camel | a woven carpet
planetarium | in the planetarium | the rings of Saturn | a shooting star | sat under a thousand stars | a map of the sky

spot
under a bench / behind a big tree / in the tall grass / under a bush / next to the gate / beside a rock
on top of the wall / inside a hollow log / between two roots / under the swing / near the old well / in a bird's nest
behind the shed / in the sandpit / under a heap of leaves / beneath the wooden steps / among the reeds / in a flower pot

nook
under the bed / in the cupboard / behind the door / on the top shelf / under the stairs / in the attic / in the cellar
behind the curtain / inside the piano / in the laundry basket / under the rug / in the chimney / behind the clock / in the drawer

landmark
river / forest / sea / hill / market / old mill / lake / railway / bridge / church / meadow / school / mountain / harbor / lighthouse / windmill

town
village / town / valley / city / harbor town / mountain village / kingdom / hamlet / settlement

market | sold
market | vegetables
toy shop | dolls and trains
fair | balloons
flea market | dusty treasures
bazaar | carpets and lamps
harbor market | fish and salt
corner shop | a bit of everything
street fair | masks and ribbons
";

/// Weather and times of day.
pub const WEATHER: &str = "
fair | season | line
sunny | summer | The sun shone in a clear blue sky
warm | spring | A soft wind smelled of flowers
bright | summer | There was not a single cloud to be seen
breezy | autumn | Yellow leaves danced in the wind
mild | spring | The first birds were singing
golden | autumn | The whole world looked as if it were made of honey
clear | spring | The air was fresh after a night of rain
hot | summer | Even the bees were too lazy to fly
dewy | spring | Drops of water sparkled on every leaf

weather | season | line | wear
rainy | spring | Rain drummed on the roof | boots
cold | winter | There was ice on the window | mittens
windy | autumn | The wind rattled the shutters | a scarf
snowy | winter | Snow fell in big soft flakes | a thick coat
foggy | autumn | Fog hid the other side of the street | a red cap
cloudy | spring | Gray clouds hung over the roofs | a sweater
frosty | winter | The grass was white with frost | woolly socks
drizzly | autumn | A thin rain ran down the glass | a raincoat
stormy | autumn | The wind tore at the branches | a hood
chilly | spring | Everyone's breath made little clouds | gloves
icy | winter | Long icicles hung from the gutter | a fur hat

time | greet | start | rest
morning | Good morning | right after breakfast | until noon
afternoon | Good afternoon | after lunch | until supper
day | Hello | when all the chores were done | until the sun went down

storm | season | did | sign
thunder | summer | rumbled over the hills | lightning flashed
the wind | autumn | howled around the corners | the trees bent low
the rain | spring | beat against the windows | the gutters overflowed
the hail | summer | hammered on the roof | the garden turned white
the gale | winter | whirled the snow around the house | the path vanished
the sea | autumn | crashed against the rocks | foam flew over the wall

light
candle / lantern / flashlight / lamp / torch / night-light / glowing stick / box of matches
";

/// Numbers, each in the row of its value.
pub const NUMBERS: &str = "
few
two / three / four / five / ten / six / seven / a dozen / eight / twenty / nine

number | nth
zero | last / one | first / two | second / three | third / four | fourth / five | fifth / six | sixth
seven | seventh / eight | eighth / nine | ninth / ten | tenth / eleven | eleventh / twelve | twelfth
thirteen | thirteenth / fourteen | fourteenth / fifteen | fifteenth / sixteen | sixteenth
seventeen | seventeenth / eighteen | eighteenth / nineteen | nineteenth / twenty | twentieth
";

/// What characters like, learn, wish for and suffer from.
pub const DEEDS: &str = "
hobby
reading books / painting pictures / singing songs / playing ball / climbing trees / baking cakes / riding bikes / telling jokes
watching birds / dancing / collecting stones / drawing maps / building towers / swimming / counting stars / growing flowers
asking questions / making up rhymes / solving riddles / whistling / doing magic tricks / jumping over puddles
folding paper animals / listening to stories / fishing / flying kites / learning new words / looking at clouds

walk | walked
run | ran
walk | walked
go | went
hurry | hurried
skip | skipped
march | marched
rush | rushed
stroll | strolled
race | raced
tiptoe | tiptoed
wander | wandered
hike | hiked

skill | did | doing | failed | tip
ride a bike | rode a bike | riding a bike | fell onto the grass | look straight ahead
swim | swam | swimming | swallowed a lot of water | kick with both legs
whistle | whistled | whistling | blew out nothing but air | make a small round mouth
skate | skated | skating | slipped and sat down hard | bend your knees
play the flute | played the flute | playing the flute | made an ugly squeak | breathe slowly
juggle | juggled | juggling | dropped every ball | watch the highest ball
paint | painted | painting | turned all the colors into mud | let each color dry first
jump rope | jumped rope | jumping rope | got tangled up | listen to the beat
read | read | reading | mixed up all the letters | sound out one letter at a time
knit | knitted | knitting | made a big knot | make one loop after the other
catch a ball | caught the ball | catching a ball | missed it by a mile | keep your eyes on the ball
bake bread | baked bread | baking bread | pulled out a flat black stone | wait until the dough has doubled
row a boat | rowed the boat | rowing a boat | went around in circles | pull both oars together
climb a rope | climbed the rope | climbing a rope | slid right back down | push with your feet
dance | danced | dancing | stepped on everyone's toes | count to four
ski | skied | skiing | landed in a heap of snow | point your toes together
tie a bow | tied a bow | tying a bow | pulled and the knot came undone | start with two bunny ears
do a handstand | did a handstand | doing a handstand | tipped over at once | press your hands flat on the floor
tell the time | told the time | telling the time | came an hour too late | look at the short hand first
speak French | spoke French | speaking French | ordered soap and not soup | say each word out loud

contest | did | doing
running race | ran as fast as the wind | running
drawing contest | drew a dragon with green wings | drawing
singing contest | sang a song about the moon | singing
sandcastle contest | built a tower with nine windows | building with sand
jumping contest | leaped over a bench | jumping
spelling contest | spelled the longest word of all | spelling
baking contest | baked a pie with a golden crust | baking
boat race | steered around every rock | rowing
kite contest | flew a kite above the clouds | flying kites
sack race | hopped like a rabbit | hopping in a sack
snowman contest | made a snowman with a top hat | rolling snow
chess game | took the queen | playing chess
story contest | told a tale about a giant | telling stories
egg race | balanced an egg on a spoon | walking with eggs

secret | reason
there is a nest of kittens in the barn | the kittens need quiet
we are planning a party for the teacher | it is a surprise
a deer sleeps in the orchard at night | hunters might come
I can not swim | the others would laugh at me
there is a hole in the fence | only the two of us fit through it
I am afraid of dogs | I do not want to be teased
my dad is building a rocking horse | it is for my little sister
we are moving to another town | my parents have not told anyone
the old lady next door gives away candy | she has just a few pieces left
I wrote the poem on the wall | I am too shy to say so
a family of hedgehogs lives under our porch | noise scares them away
I still sleep with a teddy bear | big kids must not know

wish | got | bad
a mountain of candy | a mountain of candy stood in the yard | tummies began to ache
a real pony | a white pony was eating the carpet | it ate all the flowers
a tower of gold | gold filled the room up to the ceiling | nobody could find the door
snow in July | snow covered the roses | the tomatoes froze
wings | two feathery wings grew from both shoulders | no shirt would fit anymore
a day without school | the school was empty | there was no one to play with
a talking cat | the cat began to talk | it would not stop for a moment
a hundred balloons | balloons pushed against the ceiling | the bed began to float away
legs as long as trees | the houses looked like boxes | no door was high enough
endless ice cream | ice cream ran out of every tap | the street turned into a slippery mess

ailment | cure
a bad cold | hot soup
a fever | cool water
a sore throat | honey tea
a tummy ache | peppermint tea
a broken leg | soft pillows
a cough | warm milk
chicken pox | white cream
a toothache | a cold cloth
an earache | a warm onion sock
a twisted ankle | a tight bandage

cheer
a drawing of a rainbow / a funny story / a jar of fireflies / a bunch of daisies / a puppet show / a new riddle / a book about whales
a card signed by the whole class / a song on the guitar / a paper crane / a bowl of cherries / a bag of puzzles

snag | brave
fell into a deep puddle | lifted the little one out
got stuck in a thorn bush | bent the thorns aside
was swept along by the stream | laid a branch across the water
could not find the way home in the dark | showed the way
was chased by a hungry hawk | scared the hawk away with one loud cry
slid into a rabbit hole | dug until the hole was wide enough
was shivering in the snow | shared a warm corner of the cave
";

/// Adjectives and adverbs.
pub const QUALITIES: &str = "
trait
kind / happy / brave / clever / curious / shy / cheerful / funny / gentle / quiet / careful / playful / friendly
polite / busy / patient / lively / dreamy / honest / thoughtful / merry / stubborn / eager / loyal / bold / sleepy / modest

color
red / blue / green / yellow / white / purple / orange / pink / brown / black / silver / golden / gray / violet / turquoise / striped

pretty
pretty / shiny / beautiful / lovely / wonderful / fine / splendid / charming / dazzling / elegant

big
big / huge / large / great / enormous

small
small / little / tiny

cozy
small / cozy / warm / old / tidy / crooked / comfortable / quiet / neat / tiny / sunny / round

softly
softly / quietly / gently / carefully / slowly / calmly / silently / patiently

tone
softly / quietly / slowly / at last / calmly / after a while / in a low voice / seriously / with a nod
shyly / thoughtfully / firmly / hoarsely / in one breath / simply / earnestly

fast
quickly / fast / at once / right away / without waiting / in a hurry / as fast as possible / like the wind / in no time

glad
happy / glad / proud / very happy / delighted / full of joy / cheerful / thrilled / overjoyed

sad
sad / upset / unhappy / very sad / miserable / gloomy / heartbroken / lonely / disappointed

scared
afraid / scared / frightened / worried / nervous / terrified / startled / uneasy

angry
angry / cross / mad / furious / annoyed / grumpy

strange
strange / odd / funny / spooky / mysterious / curious / peculiar / faint
";
